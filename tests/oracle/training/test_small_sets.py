"""Fine-tuning on a handful of images, of networks of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dynamic import UserError
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
