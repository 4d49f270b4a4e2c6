from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dynamic
from dynamic import UserError
from dynamic.training import loop
from dynamic.training.scratch import TrainSettings, train


def settings(folder: Path, out: str, **changes: object) -> TrainSettings:
    options = {"data_dir": folder, "out": folder / out, "epochs": 2, "batch": 16, "images": 48, "dtype": "float32"}
    return TrainSettings(**(options | changes))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet50-slim", "mobilenet_v2-slim"])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    training_folder: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """MobileNetV2 has dropout, so its weights depend on torch's generator too."""
    whole = train(settings(training_folder, "whole", model=model))
    lines = [json.loads(line) for line in (training_folder / "whole/log.jsonl").read_text().splitlines()]
    assert whole == lines[-1]
    # Nobody looks at test images before the training has ended.
    assert [set(line) for line in lines[:-1]] == [{"epoch", "loss", "learning_rate", "seconds"}] * 2
    save = loop.save_checkpoint

    def interrupt(*arguments: object, **parts: object) -> None:
        save(*arguments, **parts)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(settings(training_folder, "cut", model=model))
    torch.manual_seed(7)  # another process would not have this one's generator
    train(settings(training_folder, "cut", model=model))
    first, second = (load_file(training_folder / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all((first[name] == second[name]).all() for name in first)
    # What was trained is what --weights takes.
    dynamic.load(model, weights=training_folder / "cut" / "weights.safetensors")
    with pytest.raises(UserError, match="belongs to another training \\(batch 16 there, 8 here\\)"):
        train(settings(training_folder, "cut", model=model, batch=8))
    # What auto is on this machine is what the checkpoint remembers.
    monkeypatch.setattr("dynamic.resources.cpu_flags", lambda: frozenset({"avx512_bf16"}))
    with pytest.raises(UserError, match="belongs to another training \\(dtype 'float32' there, 'bfloat16' here\\)"):
        train(settings(training_folder, "cut", model=model, dtype="auto"))


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--epochs must be at least 1, not 0"):
        TrainSettings(epochs=0)
    with pytest.raises(UserError, match="no Fashion-MNIST training photographs"):
        train(TrainSettings(data_dir=tmp_path))
