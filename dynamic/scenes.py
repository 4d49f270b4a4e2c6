"""fashion-scenes: real Fashion-MNIST photographs placed at random scale and position among clutter.

A small real problem that needs no network connection. Every scene is a function of (split, index, seed, regime) alone:
the photograph ``index`` of the split, pasted over pieces cut from other photographs of the same split, at a side length
drawn log-uniformly. The true side is kept, because scale is what the preferred configuration is said to depend on
(Inkawhich et al. 2022, section 4.5).

    >>> scenes = FashionScenes("test", regime="wide")
    >>> images = scenes.render([0, 1, 2])        # (3, 3, 96, 96) float32, normalised
    >>> scenes.labels[:3]                        # class indices
    array([9, 2, 1])
    >>> scenes.sides[:3].astype(int)             # true sides of the objects in pixels
    array([19, 70, 33])
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamic.errors import UserError
from dynamic.files import ASSETS
from dynamic.preprocessing import Preprocessing

Split = Literal["train", "label", "test"]
Regime = Literal["matched", "wide"]

CANVAS = 96
"""Height and width of a scene in pixels."""

CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

SIDES: dict[Regime, tuple[float, float]] = {"matched": (32.0, 80.0), "wide": (16.0, 160.0)}
"""Range of the object's side in pixels; ``matched`` is what the slim networks are trained on."""

MEAN, STD = 0.22, 0.27
"""Pixel statistics of matched training scenes (fractions of white), used to normalise."""

TRAIN_COUNT = 50_000
"""The first 50,000 of Fashion-MNIST's 60,000 training photographs train networks; the rest are the label split."""

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_PIECES = 12  # clutter pieces a scene
_WINDOW = 14  # side of the window cut from a 28-pixel photograph
_PATCH = 40  # largest side of a pasted piece; smallest is a quarter of it
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


def scenes_preprocessing(channels: int = 3) -> Preprocessing:
    """For the slim networks: grey, short side to 96 pixels, the centre, normalised as fashion-scenes are."""
    return Preprocessing(colour="grey", resize=CANVAS, crop=CANVAS, mean=(MEAN,) * channels, std=(STD,) * channels)


def load_photographs(split: Split, data_dir: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the photographs (N, 28, 28) uint8 and their classes (N,) int64 of one split.

    The label and test photographs are part of the package. The training photographs are read from ``data_dir``, from the
    folder of Debian's ``dataset-fashion-mnist``, or from what ``torchvision.datasets.FashionMNIST(download=True)`` left.

    Raises:
        UserError: the training photographs are in none of those places, or a file there is damaged.
    """
    if split not in get_args(Split):
        raise UserError(f"unknown split {split!r}: choose one of {', '.join(get_args(Split))}")
    if split != "train":
        with np.load(ASSETS / f"fashion_{split}.npz") as stored:
            return stored["images"], stored["labels"].astype(np.int64)
    folder = _training_folder(data_dir)
    try:
        images = _read_idx(folder / "train-images-idx3-ubyte.gz")[:TRAIN_COUNT]
        labels = _read_idx(folder / "train-labels-idx1-ubyte.gz")[:TRAIN_COUNT]
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"cannot read the Fashion-MNIST training photographs in {folder}: {error}") from error
    return images, labels.astype(np.int64)


def _training_folder(data_dir: Path | None) -> Path:
    folders = [DEBIAN_FOLDER] if data_dir is None else [data_dir, data_dir / "FashionMNIST" / "raw"]
    for folder in folders:
        if (folder / "train-images-idx3-ubyte.gz").exists():
            return folder
    raise UserError(
        f"no Fashion-MNIST training photographs (train-images-idx3-ubyte.gz) in {' or '.join(map(str, folders))}: "
        "run `apt-get install dataset-fashion-mnist`, or torchvision.datasets.FashionMNIST(DIR, download=True) "
        "and pass --data-dir DIR"
    )


def _read_idx(path: Path) -> np.ndarray:
    """Read one file of the IDX format: magic (0, 0, 8 = uint8, dimensions), big-endian sizes, data."""
    raw = gzip.decompress(path.read_bytes())
    shape = tuple(np.frombuffer(raw, ">u4", raw[3], 4).astype(int))
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


class FashionScenes:
    """One split of fashion-scenes in one regime.

    Args:
        split: ``train`` (50,000), ``label`` (10,000) or ``test`` (10,000); no photograph is in two of them.
        regime: ``matched`` (object sides of 32-80 pixels, as in training) or ``wide`` (16-160, the large ones cropped).
        seed: another seed draws other scales, positions and clutter for the same photographs.
        data_dir: where the training photographs are; the other splits ignore it.

    Attributes:
        labels: (N,) int64 classes, an index into :data:`CLASSES`.
        sides: (N,) float32 true side of the object in pixels.
        centres: (N, 2) float32 x and y of the object's centre, as shares of the canvas.
    """

    def __init__(
        self, split: Split, regime: Regime = "matched", seed: int = 0, data_dir: Path | None = None, count: int | None = None
    ) -> None:
        if regime not in SIDES:
            raise UserError(f"unknown regime {regime!r}: choose one of {', '.join(SIDES)}")
        images, self.labels = load_photographs(split, data_dir)
        self.split, self.regime, self.seed = split, regime, seed
        self._photographs = torch.from_numpy(images.copy())[:, None]
        if count is not None:
            self.labels = self.labels[:count]
        self._draw()

    def __len__(self) -> int:
        return len(self.labels)

    def reseed(self, seed: int) -> None:
        """Draw every scene anew; training does so once an epoch."""
        self.seed = seed
        self._draw()

    def _draw(self) -> None:
        stream = np.random.Generator(np.random.PCG64([self.seed, get_args(Split).index(self.split)]))
        # Row-wise, so that scene i does not depend on how many scenes follow it.
        drawn = stream.random((len(self), 4 + 7 * _PIECES)).astype(np.float32)
        drawn = np.minimum(drawn, _BELOW_ONE)  # one in 33 million rounds to one, which is no place in a photograph
        self._object, self._clutter = drawn[:, :4], drawn[:, 4:].reshape(len(self), _PIECES, 7)
        low, high = SIDES[self.regime]
        self.sides = low * (high / low) ** self._object[:, 0]
        # Inside the canvas where the object fits; where it does not, the canvas lies inside the object.
        corners = self._object[:, 1:3] * (CANVAS - self.sides)[:, None]
        self.centres = (corners + self.sides[:, None] / 2) / CANVAS

    def render(self, indices: Sequence[int] | np.ndarray, normalise: bool = True) -> Tensor:
        """Render scenes.

        Args:
            indices: which scenes, each in [0, len(self)).
            normalise: subtract the mean and divide by the deviation; otherwise values are in [0, 1].

        Returns:
            (len(indices), 3, 96, 96) float32; the three channels are equal (the photographs are grey).
        """
        rows = np.asarray(indices, dtype=np.int64)
        canvas = self._render_clutter(self._clutter[rows])
        photographs = self._photographs[torch.from_numpy(rows)].float() / 255
        # The mask lets the object cover the clutter; its own black background stays transparent.
        layers = torch.cat([photographs, (photographs > 0.02).float()], dim=1)
        sides = torch.from_numpy(self.sides[rows])
        centre = torch.from_numpy(self.centres[rows]) * 2 - 1
        zoom = CANVAS / sides
        layers = F.grid_sample(layers, _sampling_grid(zoom, -centre * zoom[:, None], CANVAS), align_corners=False)
        contrast = 0.6 + 0.4 * torch.from_numpy(self._object[rows, 3])[:, None, None, None]
        scene = canvas * (1 - layers[:, 1:]) + contrast * layers[:, :1]
        if normalise:
            scene = scene.sub_(MEAN).div_(STD)
        return scene.expand(-1, 3, -1, -1).contiguous()

    def _render_clutter(self, drawn: np.ndarray) -> Tensor:
        """Paste pieces of other photographs of the split on black canvases; overlapping pieces show the brighter one."""
        count = len(drawn)
        pieces = torch.from_numpy(drawn).reshape(-1, 7)
        source = (pieces[:, 0] * len(self._photographs)).long()
        window = torch.arange(_WINDOW)
        top, left = ((pieces[:, k] * (28 - _WINDOW + 1)).long()[:, None] + window for k in (1, 2))
        cut = self._photographs[source, 0][torch.arange(len(source))[:, None, None], top[:, :, None], left[:, None, :]]
        sides = _PATCH * 4 ** (pieces[:, 3] - 1)
        grid = _sampling_grid(_PATCH / sides, torch.zeros(len(source), 2), _PATCH)
        patch = F.grid_sample(cut[:, None].float(), grid, align_corners=False)[:, 0]
        patch *= ((0.2 + 0.5 * pieces[:, 4]) / 255)[:, None, None]
        # A margin of one patch around the canvas lets pieces hang over its edge; it is cut off at the end.
        width = CANVAS + 2 * _PATCH
        y, x = ((pieces[:, k] * (CANVAS + _PATCH)).long()[:, None] + torch.arange(_PATCH) for k in (5, 6))
        where = (y[:, :, None] * width + x[:, None, :]).reshape(count, -1)
        canvas = torch.zeros(count, width * width).scatter_reduce_(1, where, patch.reshape(count, -1), "amax")
        return canvas.reshape(count, 1, width, width)[:, :, _PATCH:-_PATCH, _PATCH:-_PATCH]


def _sampling_grid(zoom: Tensor, shift: Tensor, size: int) -> Tensor:
    """Grid (N, size, size, 2) for ``grid_sample``: zoom (N,), shift (N, 2); ``affine_grid`` is far slower."""
    centres = (torch.arange(size, dtype=torch.float32) * 2 + 1) / size - 1
    grid = torch.empty(len(zoom), size, size, 2)
    grid[..., 0] = (zoom[:, None] * centres + shift[:, :1])[:, None, :]
    grid[..., 1] = (zoom[:, None] * centres + shift[:, 1:])[:, :, None]
    return grid
