from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores; before what reads it is imported

import numpy as np
import pytest
import torch
from torch import nn

import dynamic
from dynamic.models import DYNAMIC_LAYERS, build
from dynamic.scenes import load_photographs

MODELS = [
    name if name in ("resnet50", "mobilenet_v2") else pytest.param(name, marks=pytest.mark.slow) for name in DYNAMIC_LAYERS
]
"""The paper's four networks; two of them, a residual one and a depth-wise one, in the quick loop."""

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly, and nothing else")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Nightly tests run when they are asked for, whatever -m says."""
    nightly = config.getoption("--nightly")
    left_out = [item for item in items if (item.get_closest_marker("nightly") is not None) != nightly]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@functools.cache
def settled(name: str) -> nn.Module:
    """A network with random weights and batch-norm statistics that fit them, so that logits are of ordinary size."""
    torch.manual_seed(0)
    network = build(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 64, 64))
    return network.eval()


@pytest.fixture(params=MODELS)
def slim_network(request: pytest.FixtureRequest) -> tuple[str, dynamic.DynamicNetwork]:
    name = f"{request.param}-slim"
    return name, dynamic.DynamicNetwork(settled(name), DYNAMIC_LAYERS[name.removesuffix("-slim")])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@pytest.fixture
def training_folder(tmp_path: Path) -> Path:
    """The first label photographs, in the files and format of Fashion-MNIST's training set."""
    images, labels = load_photographs("label")
    for name, array in (("images-idx3", images[:60]), ("labels-idx1", labels[:60].astype(np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return tmp_path
