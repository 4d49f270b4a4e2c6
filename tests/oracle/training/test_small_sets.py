"""Fine-tuning on a handful of images, of networks of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from dynamic import UserError
from oracle.run import main
from oracle.runs import Run
from oracle.settings import RunSettings
from oracle.training.fine_tuning import fine_tune
from oracle.training.settings import RofSettings
from tests.image_folders import fill

SMALL = """
from torch import nn
def make():
    def block(a, b, stride):
        return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 2)]
    return nn.Sequential(*block(3, 4, 2), *block(4, 8, 2), *block(8, 8, 2), *head)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "data" / "train", {"a": 3, "b": 3}, height=64)
    fill(tmp_path / "data" / "val", {"a": 2, "b": 2}, height=70)
    return tmp_path


def settings(folder: Path, code: str, **changes: object) -> RofSettings:
    (folder / "own.py").write_text(code)
    options = {"model": f"{folder}/own.py:make", "dataset": "imagefolder", "data_dir": folder / "data", "resolution": 32}
    options |= {"space": "stride", "epochs": 1, "checked_images": 2, "dtype": "float32", "device": "cpu"}
    return RofSettings(**(options | {"out": folder / "out"} | changes))  # type: ignore[arg-type]


def test_fewer_images_than_a_batch_are_one_batch(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that step batch norms learn their statistics, and dropout is on."""
    dropped: list[float] = []
    dropout = torch.nn.functional.dropout

    def watched(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        made = dropout(x, p, training, inplace)
        if training and not x.is_meta:
            dropped.append(float(((made == 0) & (x != 0)).float().mean()))
        return made

    monkeypatch.setattr(torch.nn.functional, "dropout", watched)
    fine_tune(settings(folder, SMALL))
    assert "there are 6 training images: they are one batch" in capsys.readouterr().err
    assert len(dropped) == 1
    assert 0.1 < dropped[0] < 0.9
    tuned = load_file(folder / "out" / "weights.safetensors")
    moved = [name for name in tuned if name.endswith("running_mean") and tuned[name].abs().max() > 0]
    assert len(moved) == 3
    with pytest.raises(UserError, match="--batch 7 must be at most the 6 training images"):
        fine_tune(settings(folder, SMALL, batch=7))


GOOGLENET = """
import torchvision
def make():
    return torchvision.models.googlenet(num_classes=2, aux_logits=True, init_weights=False)
"""


@pytest.mark.slow
def test_googlenet_tuned_is_the_runs_googlenet(folder: Path) -> None:
    """Its auxiliary heads answer in training only."""
    options = {"images": 4, "resolution": 64, "dynamic_layers": "inception3a.branch2.1.conv,inception4a.branch2.1.conv"}
    options |= {"space": space(folder)}
    made = fine_tune(settings(folder, GOOGLENET, **options))
    trained = torchvision.models.googlenet(num_classes=2, aux_logits=True, init_weights=False).eval()
    trained.load_state_dict({name: tensor.float() for name, tensor in load_file(made["weights"]).items()})
    shared = {"model": f"{folder}/own.py:make", "dataset": "imagefolder", "data_dir": folder / "data", "device": "cpu"}
    shared |= {"weights": made["weights"], "out": folder / "run"} | options | {"images": 2}
    main(RunSettings(**shared))  # type: ignore[arg-type]
    network = Run.open(folder / "run").network
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images, network.default), trained(images))


def space(folder: Path) -> str:
    """Two configurations of two layers."""
    path = folder / "two.json"
    path.write_text('{"dilation": [[1, 2], [1]]}')
    return str(path)
