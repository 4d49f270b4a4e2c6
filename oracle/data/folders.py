"""Images in class folders: where the folders lie, which class each is, and the source that reads them."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynamic.errors import UserError
from dynamic.files import ASSETS
from dynamic.models import ModelInfo, class_names
from dynamic.resources import cpu_count
from oracle.data.digests import digest_of
from oracle.data.image_source import Batch
from oracle.data.splits import SPLIT_RULE, SPLITS, rows_of_splits

_WNIDS = ASSETS / "imagenet_wnids.txt"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


class FolderSource:
    """Images in class folders: ImageNet's validation set (1000 wnid folders), Imagenette, or one's own.

    An image's name alone decides its split; see :mod:`oracle.data.splits`.

    Args:
        name: of the data set: imagenet, imagenette or imagefolder.
        data_dir: see :func:`find_root`.
        info: of the network, for its transform, resolution and number of classes.
        images: at most so many a split; None for all.
        seed: orders the images within each split.
        class_map: see :func:`class_indices`.

    Raises:
        UserError: no images, none for one of the splits, or classes that do not fit the network.
    """

    def __init__(
        self, name: str, data_dir: Path, info: ModelInfo, images: int | None, seed: int, class_map: Path | None
    ) -> None:
        root = find_root(data_dir, name, "val")
        index = class_folders(root, info, class_map)
        files, others = image_files(root, index)
        if others:
            print(f"ignored {len(others)} files that are not images, such as {others[0]}", file=sys.stderr)
        if not files:
            raise UserError(f"{root} holds 0 images in {len(index)} class folders; expected {root}/CLASS/IMAGE.jpg")
        keys = [path.relative_to(root).as_posix() for path, _ in files]
        parts = rows_of_splits(keys, seed, images)
        for split, part in zip(SPLITS, parts, strict=True):
            if not len(part):
                raise UserError(
                    f"{root} holds {len(files)} images, none of them in the {split} split: both splits need some, and a "
                    "hash of its name says to which an image belongs; add images"
                )
        rows = np.concatenate(parts)
        self._root, self._transform = root, info.preprocessing
        self.splits = np.repeat(SPLITS, [len(part) for part in parts])
        self.keys = np.array([keys[row] for row in rows])
        self.labels = np.array([files[row][1] for row in rows], dtype=np.int64)
        sizes = np.array([files[row][0].stat().st_size for row in rows])
        self.identity = {
            "dataset": name,
            "seed": str(seed),
            "split_rule": SPLIT_RULE,
            "images": digest_of(self.keys, self.labels, sizes),
        }
        self.resolution = info.resolution
        self.metadata: dict[str, np.ndarray] = {}
        self.centres = np.full((len(rows), 2), 0.5, np.float32)
        self.stand_in = False
        self.class_names = _names_of_classes(name, index, info)
        self.preprocessing = info.preprocessing

    def load(self, rows: np.ndarray) -> Batch:
        """Decode and transform some rows in parallel; what is wrong with an unreadable file is in the batch's problems.

        Raises:
            OSError: the disk failed, or a file is gone; its ``filename`` says which.
        """
        images = torch.zeros(len(rows), 3, self.resolution, self.resolution)
        readable = np.ones(len(rows), bool)
        problems = {}
        # A pool for each call costs far less than decoding, and leaves no thread behind.
        with ThreadPoolExecutor(min(cpu_count(), max(len(rows), 1))) as pool:
            for position, (row, result) in enumerate(zip(rows, pool.map(self._read, rows), strict=True)):
                if isinstance(result, str):
                    readable[position] = False
                    problems[str(self.keys[row])] = result
                else:
                    images[position] = result
        return Batch(images=images, readable=readable, problems=problems)

    def _read(self, row: int) -> Tensor | str:
        try:
            with Image.open(self._root / self.keys[row]) as image:
                return self._transform(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EACCES):
                raise  # the disk or the mount failed, not the image; nothing must be recorded
            root = repr(str(self._root) + os.sep)[1:-1]  # messages quote paths as repr does
            return str(error).splitlines()[0].replace(root, "") if str(error) else type(error).__name__


def _names_of_classes(name: str, index: Mapping[str, int], info: ModelInfo) -> tuple[str, ...]:
    """The folders' names in an image folder of one's own; elsewhere what the network's classes are called."""
    if name != "imagefolder":
        return class_names(info)
    folders = {position: folder for folder, position in index.items()}
    return tuple(folders.get(position, f"class {position}") for position in range(info.classes))


def class_indices(folders: list[str], info: ModelInfo, class_map: Path | None) -> dict[str, int]:
    """Which of the network's classes each folder is.

    By ``class_map``, a JSON file, if given; else by wnid for a network of ImageNet's 1000 classes; else in sorted order.

    Raises:
        UserError: none of these fits, or the map lacks a folder or leaves the network's range.

    >>> import dynamic
    >>> class_indices(["cat", "dog"], dynamic.load("mobilenet_v2-slim", weights=None, classes=2).info, None)
    {'cat': 0, 'dog': 1}
    """
    if class_map is not None:
        try:
            mapped = json.loads(class_map.read_text(encoding="utf-8"))
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
    """The images in the class folders ``index`` names, each with its class index; and the files that are none.

    Raises:
        UserError: a name that is not Unicode, which no table of results could hold.
    """
    found = [
        (path, label) for folder, label in index.items() for path in sorted((root / folder).rglob("*")) if path.is_file()
    ]
    images = [(path, label) for path, label in found if path.suffix.lower() in _SUFFIXES]
    for path, _ in images:
        try:
            str(path.relative_to(root)).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the file name {os.fsencode(path)!r} is not UTF-8: rename the file or its folder") from error
    return images, [path for path, _ in found if path.suffix.lower() not in _SUFFIXES]


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")
