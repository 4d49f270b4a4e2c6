from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import dynamic
import dynamic.train as training
from dynamic import UserError
from dynamic.training.scratch import TrainSettings, train


def settings(folder: Path, out: str, **changes: object) -> TrainSettings:
    options = {"data_dir": folder, "out": folder / out, "epochs": 2, "batch": 16, "images": 48, "dtype": "float32"}
    return TrainSettings(**(options | changes))  # type: ignore[arg-type]


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    training_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(settings(training_folder, "whole"))
    assert whole["test_accuracy"] == pytest.approx(
        json.loads((training_folder / "whole/log.jsonl").read_text().splitlines()[-1])["test_accuracy"]
    )
    save = training.save_checkpoint

    def interrupt(*arguments: object, **parts: object) -> None:
        save(*arguments, **parts)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(settings(training_folder, "cut"))
    train(settings(training_folder, "cut"))
    first, second = (load_file(training_folder / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all((first[name] == second[name]).all() for name in first)
    # What was trained is what --weights takes.
    dynamic.load("resnet50-slim", weights=training_folder / "cut" / "weights.safetensors")
    with pytest.raises(UserError, match="belongs to another training \\(batch 16 there, 8 here\\)"):
        train(settings(training_folder, "cut", batch=8))


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--epochs must be at least 1, not 0"):
        TrainSettings(epochs=0)
    with pytest.raises(UserError, match="no Fashion-MNIST training photographs"):
        train(TrainSettings(data_dir=tmp_path))
