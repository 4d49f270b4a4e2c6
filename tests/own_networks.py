"""A small network of one's own that tests write into a file."""

from __future__ import annotations

from pathlib import Path

NETWORK = """\
from torch import nn


def build(classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )
"""

LAYERS = ["0", "3"]
"""Its convolutions."""


def write_network(folder: Path, code: str = NETWORK, name: str = "my_net.py") -> Path:
    """The file, with a function ``build`` in it."""
    path = folder / name
    path.write_text(code)
    return path
