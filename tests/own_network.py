"""What a person brings: a network class in a file of one's own, trained with a plain loop, and a folder of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from dynamic.preprocessing import Preprocessing
from dynamic.scenes import load_photographs

CLASSES = ("bag", "boot", "shirt", "trousers")
_ROWS = (8, 9, 6, 1)
"""Of Fashion-MNIST."""

SIDE, MEAN, STD = 32, 0.3, 0.35

CODE = '''
"""A network of one's own."""
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.again = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.again_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        made = self.again_norm(self.again(torch.relu(self.norm(self.conv(x)))))
        return torch.relu(made + self.shortcut(x))


class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.first, self.second = Block(8, 16, 2), Block(16, 32, 2)
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        return self.head(self.second(self.first(self.stem(x))).mean((2, 3)))


def build(classes=4):
    return Small(classes)
'''

OPTIONS = ["--resolution", SIDE, "--mean", *[MEAN] * 3, "--std", *[STD] * 3, "--dynamic-layers", "first.conv,second.conv"]
"""What the commands must be told of it."""


def photographs(start: int, count: int) -> list[tuple[int, Image.Image]]:
    """Labels and pictures of Fashion-MNIST, ``count`` of each class, of several sizes and both bright and dark."""
    images, labels = load_photographs("label")
    stream = np.random.default_rng(start)
    found = []
    for label, row in enumerate(_ROWS):
        for pixels in images[labels == row][start : start + count]:
            side = int(stream.integers(28, 90))
            picture = Image.fromarray(np.asarray(pixels, np.uint8)).resize((side, int(side * stream.uniform(1, 1.3))))
            coloured = np.asarray(picture)[:, :, None] * stream.uniform(0.6, 1, 3) + stream.normal(0, 12, 3)
            found.append((label, Image.fromarray(coloured.clip(0, 255).astype(np.uint8))))
    return found


def write_photographs(root: Path, count: int, start: int = 0) -> None:
    """Folders of photographs, a class each, JPEG and PNG in turn."""
    for position, (label, picture) in enumerate(photographs(start, count)):
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{position:04d}.{'jpg' if position % 2 else 'png'}")


def write_network(folder: Path) -> Path:
    """The network's file."""
    path = folder / "my_net.py"
    path.write_text(CODE)
    return path


def train_network(folder: Path, pictures: list[tuple[int, Image.Image]], epochs: int = 6) -> Path:
    """Train it with a plain loop on pictures of its own, and save its state."""
    names: dict[str, object] = {}
    exec(CODE, names)
    torch.manual_seed(0)
    network: nn.Module = names["build"]()  # type: ignore[operator]
    prepare = Preprocessing(resize=SIDE, crop=SIDE, mean=(MEAN,) * 3, std=(STD,) * 3)
    images = torch.stack([prepare(picture) for _, picture in pictures])
    labels = torch.tensor([label for label, _ in pictures])
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    path = folder / "best.pth"
    torch.save(network.state_dict(), path)
    return path
