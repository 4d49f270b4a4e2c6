from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from dynamic.compiled.compiling import compile_network
from dynamic.compiled.needs import Look, Needs
from dynamic.compiled.session import CompiledSession
from tests.dynamic.compiled.networks import LOOKS, SIDE, family, images


@pytest.mark.parametrize("name", ["residual", "dense", "inverted", "fire"])
def test_eight_bits(tmp_path: Path, name: str) -> None:
    """Answers are near those of float32, on stretches from the images and from where others parted."""
    both = family(name)
    chosen = both.configurations[:2]
    made = compile_network(
        both.eager,
        tmp_path / "int8",
        configurations=chosen,
        resolution=SIDE,
        needs=Needs(ladders=(tuple(chosen),), looks=(Look(kind="pooled", layer=1, configuration=chosen[0]),)),
        looks=LOOKS,
        precision="int8",
        calibration=images(both.compiled, 32),
    )
    assert made.precision == "int8"
    batch, rows = images(made, 16, seed=1), np.arange(16)
    exact, rounded = CompiledSession(both.compiled, batch), CompiledSession(made, batch)
    for configuration in chosen:
        expected = exact.logits(configuration, rows)
        off = np.abs(rounded.logits(configuration, rows) - expected)
        assert 0 < off.max() < 0.2 * np.abs(expected).max()
    np.testing.assert_allclose(
        CompiledSession(made, batch).look("pooled", 1, chosen[0], rows),
        exact.look("pooled", 1, chosen[0], rows),
        atol=0.1,
    )
    assert (exact.macs == rounded.macs).all()
    # Two products of unsigned 8 and signed 7 bits fit into 16, which CPUs without VNNI add them in.
    graphs = [onnx.load(path).graph for path in (tmp_path / "int8").glob("*.onnx")]
    kernels = [to_array(kept).astype(int) for graph in graphs for kept in graph.initializer if _is_kernel(kept)]
    assert {np.abs(kernel).max() for kernel in kernels} == {64}


def _is_kernel(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
