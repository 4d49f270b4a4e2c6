"""Small runs that tests make: on a folder of images, moved away from everything they were made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import dynamic
from oracle.pipeline import run
from oracle.settings import RunSettings
from selector.learning.training import TrainSettings, train

CLASSES = ("apple", "mole", "zebra")


def write_space(folder: Path) -> Path:
    """A file that lists two configurations of a ResNet."""
    path = folder / "two.json"
    path.write_text(json.dumps({"stride": [[1, 2], [2], [2], [2]]}))
    return path


def photograph(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (70, 90, 3), np.uint8))


def moved_folder_run(base: Path) -> Path:
    """A run on an image folder with weights from a file, with policies, moved; images, weights and space are gone."""
    for position, name in enumerate(CLASSES):
        (base / "photos" / name).mkdir(parents=True)
        for number in range(12):
            photograph(100 * position + number).save(base / "photos" / name / f"{name}-{number}.png")
    torch.manual_seed(0)
    weights = base / "mine.safetensors"
    save_file(dynamic.load("resnet50-slim", weights=None, classes=3).original.state_dict(), weights)
    made = {"space": str(write_space(base)), "recalibrate": 8, "dataset": "imagefolder", "data_dir": base / "photos"}
    run(RunSettings(weights=str(weights), out=base / "run", **made))  # type: ignore[arg-type]
    train(TrainSettings(run=base / "run", policies="cascade", device="cpu"))
    shutil.copytree(base / "run", base / "elsewhere")
    for gone in ("photos", "run"):
        shutil.rmtree(base / gone)
    for gone in ("mine.safetensors", "two.json"):
        (base / gone).unlink()
    return base / "elsewhere"
