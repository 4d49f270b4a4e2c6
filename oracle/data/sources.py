"""Where labelled images come from: fashion-scenes, ImageNet, Imagenette, or any folder of class folders.

Every source deals its images to two splits, ``label`` (to learn selectors and choose constants on) and ``test`` (to report
on); no image is in both. Sources give rows in that order.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynamic.errors import UserError
from dynamic.files import ASSETS
from dynamic.models import ModelInfo, class_names
from dynamic.preprocessing import Preprocessing, scenes_preprocessing
from dynamic.scenes import CLASSES, FashionScenes, Regime

SPLITS = ("label", "test")
DatasetName = Literal["fashion-scenes", "imagenet", "imagenette", "imagefolder"]

_WNIDS = ASSETS / "imagenet_wnids.txt"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Batch:
    """Some rows of a source.

    Attributes:
        images: (rows, 3, H, W) float32, normalised; zeros where not readable.
        readable: (rows,) bool.
        problems: what was wrong with each unreadable image, by key.
    """

    images: Tensor
    readable: np.ndarray
    problems: dict[str, str] = field(default_factory=dict)


class ImageSource(Protocol):
    """What the oracle needs of a data set.

    Attributes:
        identity: what makes two runs on it comparable; compared when a run is resumed.
        keys: (images,) stable name of each image.
        splits: (images,) "label" or "test".
        labels: (images,) class index of the network's output.
        resolution: height = width in pixels.
        metadata: further facts by name, one an image.
        centres: (images, 2) x and y of the object's centre as shares of the side; the image's centre where unknown.
        stand_in: whether this is the project's small stand-in for a real data set.
        class_names: one for each class of the network.
        preprocessing: what a picture from elsewhere goes through to look like these images.
    """

    identity: dict[str, str]
    keys: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    resolution: int
    metadata: dict[str, np.ndarray]
    centres: np.ndarray
    stand_in: bool
    class_names: tuple[str, ...]
    preprocessing: Preprocessing

    def load(self, rows: np.ndarray) -> Batch:
        """Read and prepare some rows."""
        ...


def open_source(
    name: DatasetName,
    info: ModelInfo,
    *,
    images: int | None,
    data_dir: Path | None = None,
    regime: Regime = "matched",
    seed: int = 0,
    class_map: Path | None = None,
) -> ImageSource:
    """Open a data set for a network.

    Args:
        name: which data set.
        info: of the network, for its transform, resolution and number of classes.
        images: at most so many a split; None for all.
        data_dir: folder of the data set; fashion-scenes are embedded.
        regime: of fashion-scenes.
        seed: deals the images of a folder to the splits, or draws the scenes.
        class_map: JSON file, folder name -> class index, where folder names do not tell.

    Raises:
        UserError: a missing or empty folder, classes that do not fit the network.
    """
    if images is not None and images < 1:
        raise UserError(f"--images must be at least 1, not {images}")
    if name == "fashion-scenes":
        if info.classes != len(CLASSES):
            raise UserError(
                f"{info.name} has {info.classes} classes, fashion-scenes has {len(CLASSES)}: "
                "choose a slim network or another --dataset with --data-dir"
            )
        if data_dir is not None or class_map is not None:
            raise UserError(
                "--data-dir and --class-map do not apply to fashion-scenes, which are embedded; choose another --dataset"
            )
        return ScenesSource(regime, seed, images)
    if data_dir is None:
        raise UserError(f"--dataset {name} needs --data-dir, the folder that holds its class folders")
    return FolderSource(name, data_dir, info, images, seed, class_map)


class ScenesSource:
    """fashion-scenes' label and test splits; see :mod:`dynamic.scenes`."""

    def __init__(self, regime: Regime, seed: int, images: int | None) -> None:
        self._scenes = [FashionScenes(split, regime, seed, count=images) for split in ("label", "test")]
        self.splits = np.repeat(SPLITS, [len(scenes) for scenes in self._scenes])
        self._rows = np.concatenate([np.arange(len(scenes)) for scenes in self._scenes])
        self.keys = np.array([f"{split}/{row:05d}" for split, row in zip(self.splits, self._rows, strict=True)])
        self.labels = np.concatenate([scenes.labels for scenes in self._scenes])
        self.metadata = {"side": np.concatenate([scenes.sides for scenes in self._scenes])}
        self.centres = np.concatenate([scenes.centres for scenes in self._scenes])
        self.identity = {
            "dataset": "fashion-scenes",
            "regime": regime,
            "seed": str(seed),
            "images": digest_of(self.keys, self.labels),
        }
        self.resolution = 96
        self.stand_in = True
        self.class_names: tuple[str, ...] = CLASSES
        self.preprocessing = scenes_preprocessing()

    def load(self, rows: np.ndarray) -> Batch:
        """Render some rows."""
        images = torch.empty(len(rows), 3, self.resolution, self.resolution)
        for split, scenes in zip(SPLITS, self._scenes, strict=True):
            chosen = np.flatnonzero(self.splits[rows] == split)
            if len(chosen):
                images[torch.from_numpy(chosen)] = scenes.render(self._rows[rows[chosen]])
        return Batch(images, np.ones(len(rows), bool))


class FolderSource:
    """Images in class folders: ImageNet's validation set (1000 wnid folders), Imagenette, or one's own."""

    def __init__(
        self, name: str, data_dir: Path, info: ModelInfo, images: int | None, seed: int, class_map: Path | None
    ) -> None:
        root = find_root(data_dir, name, "val")
        index = class_folders(root, info, class_map)
        files, others = image_files(root, index)
        if others:
            print(f"ignored {len(others)} files that are not images, such as {others[0]}", file=sys.stderr)
        if len(files) < 2:
            raise UserError(
                f"{root} holds {len(files)} images in {len(index)} class folders; expected {root}/CLASS/IMAGE.jpg"
            )
        order = np.random.default_rng(seed).permutation(len(files))
        half = (len(files) + 1) // 2
        dealt = [order[:half][:images], order[half:][:images]]
        rows = np.concatenate(dealt)
        self._root, self._transform = root, info.preprocessing
        self.splits = np.repeat(SPLITS, [len(part) for part in dealt])
        self.keys = np.array([files[row][0].relative_to(root).as_posix() for row in rows])
        self.labels = np.array([files[row][1] for row in rows], dtype=np.int64)
        sizes = np.array([files[row][0].stat().st_size for row in rows])
        self.identity = {"dataset": name, "seed": str(seed), "images": digest_of(self.keys, self.labels, sizes)}
        self.resolution = info.resolution
        self.metadata: dict[str, np.ndarray] = {}
        self.centres = np.full((len(rows), 2), 0.5, np.float32)
        self.stand_in = False
        self.class_names = _names_of_classes(name, index, info)
        self.preprocessing = info.preprocessing
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def load(self, rows: np.ndarray) -> Batch:
        """Decode and transform some rows in parallel; unreadable files are told, not raised."""
        images = torch.zeros(len(rows), 3, self.resolution, self.resolution)
        readable = np.ones(len(rows), bool)
        problems = {}
        for position, (row, result) in enumerate(zip(rows, self._pool.map(self._read, rows), strict=True)):
            if isinstance(result, str):
                readable[position] = False
                problems[str(self.keys[row])] = result
            else:
                images[position] = result
        return Batch(images, readable, problems)

    def _read(self, row: int) -> Tensor | str:
        try:
            with Image.open(self._root / self.keys[row]) as image:
                return self._transform(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EACCES):
                raise  # the disk or the mount failed, not the image; nothing must be recorded
            return str(error).splitlines()[0].replace(str(self._root) + os.sep, "") if str(error) else type(error).__name__


def _names_of_classes(name: str, index: Mapping[str, int], info: ModelInfo) -> tuple[str, ...]:
    """The folders' names in an image folder of one's own; elsewhere what the network's classes are called."""
    if name != "imagefolder":
        return class_names(info)
    folders = {position: folder for folder, position in index.items()}
    return tuple(folders.get(position, f"class {position}") for position in range(info.classes))


def class_indices(folders: list[str], info: ModelInfo, class_map: Path | None) -> dict[str, int]:
    """Which of the network's classes each folder is.

    By ``class_map`` if given; else by wnid for a network of ImageNet's 1000 classes; else in sorted order.

    Raises:
        UserError: none of these fits, or the map lacks a folder or leaves the network's range.
    """
    if class_map is not None:
        try:
            mapped = json.loads(class_map.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the class map {class_map}: {error}") from error
        lacking = [folder for folder in folders if not isinstance(mapped, dict) or not isinstance(mapped.get(folder), int)]
        if lacking:
            raise UserError(f"{class_map} must give a class index for every folder; it lacks {', '.join(lacking[:5])}")
        wrong = [folder for folder in folders if not 0 <= mapped[folder] < info.classes]
        if wrong:
            raise UserError(
                f"{class_map}: the index of {', '.join(wrong[:5])} is not among the {info.classes} of {info.name}"
            )
        return {folder: mapped[folder] for folder in folders}
    if info.classes == 1000 and all(re.fullmatch(r"n\d{8}", folder) for folder in folders):
        known = {wnid: index for index, wnid in enumerate(_WNIDS.read_text().split())}
        unknown = [folder for folder in folders if folder not in known]
        if not unknown:
            return {folder: known[folder] for folder in folders}
        raise UserError(
            f"{', '.join(unknown[:5])} are not among ImageNet's 1000 classes: remove them or pass --class-map FILE"
        )
    if len(folders) == info.classes:
        return {folder: position for position, folder in enumerate(folders)}
    raise UserError(
        f"the data has {len(folders)} class folders ({', '.join(folders[:4])}, …), {info.name} has {info.classes} classes: "
        "pass --class-map FILE.json (folder name -> class index) or weights for these classes"
    )


def find_root(data_dir: Path, name: str, part: Literal["train", "val"]) -> Path:
    """The folder that holds the class folders: DIR/PART, DIR/imagenette2*/PART; for ``val`` also DIR itself."""
    if not data_dir.is_dir():
        raise UserError(f"no folder {data_dir}: --data-dir must be the folder of the images")
    roots = [data_dir / part, *sorted(data_dir.glob(f"imagenette2*/{part}"))]
    for root in [*roots, data_dir] if part == "val" else roots:
        if root.is_dir() and any(_is_class(entry) and entry.name not in ("train", "val") for entry in root.iterdir()):
            return root
    wnids, plain = f"{part}/n01440764/….JPEG", "CLASS/….jpg" if part == "val" else "train/CLASS/….jpg"
    layout = {"imagenet": wnids, "imagenette": wnids}.get(name, plain)
    raise UserError(f"{data_dir} holds no class folders: expected {data_dir}/{layout}")


def class_folders(root: Path, info: ModelInfo, class_map: Path | None) -> dict[str, int]:
    """The class folders in ``root`` with the network's class index of each; see :func:`class_indices`."""
    return class_indices(sorted(entry.name for entry in root.iterdir() if _is_class(entry)), info, class_map)


def image_files(root: Path, index: Mapping[str, int]) -> tuple[list[tuple[Path, int]], list[Path]]:
    """The images in the class folders ``index`` names, each with its class index; and the files that are none."""
    found = [
        (path, label) for folder, label in index.items() for path in sorted((root / folder).rglob("*")) if path.is_file()
    ]
    images = [(path, label) for path, label in found if path.suffix.lower() in _SUFFIXES]
    return images, [path for path, _ in found if path.suffix.lower() not in _SUFFIXES]


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def digest_of(*columns: np.ndarray) -> str:
    """Number of images and a short hash of what is known of each: name, label, size of the file."""
    text = "\n".join(" ".join(map(str, row)) for row in zip(*columns, strict=True))
    return f"{len(columns[0])} ({sha256(text.encode()).hexdigest()[:12]})"
