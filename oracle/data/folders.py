"""Images in class folders: where the folders lie, and the source that reads them."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynamic.errors import UserError
from dynamic.models import ModelInfo
from dynamic.resources import cpu_count
from oracle.data.classes import class_indices, names_of_classes
from oracle.data.digests import digest_of
from oracle.data.image_source import Batch
from oracle.data.listing import as_text, describe_copies, is_hidden, list_images, tell, tell_left_out, without_copies
from oracle.data.splits import SPLIT_RULE, SPLITS, rows_of_splits


class FolderSource:
    """Images in class folders: ImageNet's validation set (1000 wnid folders), Imagenette, or one's own.

    An image's name alone decides its split; see :mod:`oracle.data.splits`. Hidden files are left out, and all copies of an
    image but the one whose name comes first; see :mod:`oracle.data.listing`.

    Args:
        name: of the data set: imagenet, imagenette or imagefolder.
        data_dir: see :func:`find_root`.
        info: of the network, for its transform, resolution and number of classes.
        images: at most so many a split; None for all.
        seed: orders the images within each split.
        class_map: see :func:`oracle.data.classes.class_indices`.

    Raises:
        UserError: no images, none for one of the splits, or classes that do not fit the network.
    """

    def __init__(
        self, name: str, data_dir: Path, info: ModelInfo, images: int | None, seed: int, class_map: Path | None
    ) -> None:
        root = find_root(data_dir, name, "val")
        index = class_folders(root, info, class_map)
        listing = list_images(root, index)
        tell_left_out(listing)
        files, dropped = without_copies(listing.images)
        if dropped:
            tell(describe_copies(dropped))
        if not files:
            raise UserError(f"{root} holds 0 images in {len(index)} class folders; expected {root}/CLASS/IMAGE.jpg")
        keys = [file.key for file in files]
        parts = rows_of_splits(keys, seed, images)
        for split, part in zip(SPLITS, parts, strict=True):
            if not len(part):
                raise UserError(
                    f"{root} holds {len(files)} images, none of them in the {split} split: both splits need some, and a "
                    "hash of its name says to which an image belongs; add images"
                )
        kept = [files[row] for row in np.concatenate(parts)]
        self._root, self._transform = root, info.preprocessing
        self._paths = [file.path for file in kept]
        self.splits = np.repeat(SPLITS, [len(part) for part in parts])
        self.keys = np.array([file.key for file in kept])
        self.labels = np.array([file.label for file in kept], dtype=np.int64)
        sizes = np.array([file.size for file in kept])
        self.identity = {
            "dataset": name,
            "seed": str(seed),
            "split_rule": SPLIT_RULE,
            "images": digest_of(self.keys, self.labels, sizes),
        }
        self.resolution = info.resolution
        self.metadata: dict[str, np.ndarray] = {}
        self.centres = np.full((len(kept), 2), 0.5, np.float32)
        self.stand_in = False
        self.class_names = names_of_classes(name, index, info)
        self.preprocessing = info.preprocessing

    def load(self, rows: np.ndarray) -> Batch:
        """Decode and transform some rows in parallel; what is wrong with an unreadable file is in the batch's problems.

        Raises:
            OSError: the disk failed, or a file is gone; its ``filename`` says which.
        """
        images = torch.zeros(len(rows), self.preprocessing.channels, self.resolution, self.resolution)
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
            with Image.open(self._paths[row]) as image:
                return self._transform(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return reason_of(error, self._root)


def reason_of(error: BaseException, root: Path) -> str:
    """What is wrong with an image, in one line that does not say where the images lie.

    Raises:
        OSError: that is ``error``, where the disk or the mount failed, not the image: nothing must be recorded.
    """
    if isinstance(error, OSError) and error.errno not in (None, errno.EACCES):
        raise error
    quoted = repr(str(root) + os.sep)[1:-1]  # messages quote paths as repr does
    return as_text(str(error).splitlines()[0].replace(quoted, "")) if str(error) else type(error).__name__


_SPLIT_NAMES = ("train", "val", "valid", "validation", "test")
"""Folders that hold class folders; a class may be called so where others are not."""


def find_root(data_dir: Path, name: str, part: Literal["train", "val"]) -> Path:
    """The folder that holds the class folders: DIR/PART, DIR/imagenette2*/PART; for ``val`` also DIR itself."""
    if not data_dir.is_dir():
        raise UserError(f"no folder {data_dir}: --data-dir must be the folder of the images")
    roots = [data_dir / part, *sorted(data_dir.glob(f"imagenette2*/{part}"))]
    for root in [*roots, data_dir] if part == "val" else roots:
        if root.is_dir() and any(_is_class(entry) and entry.name not in _SPLIT_NAMES for entry in root.iterdir()):
            return root
    wnids, plain = f"{part}/n01440764/….JPEG", "CLASS/….jpg" if part == "val" else "train/CLASS/….jpg"
    layout = {"imagenet": wnids, "imagenette": wnids}.get(name, plain)
    found = [entry.name for entry in sorted(data_dir.iterdir()) if _is_class(entry) and entry.name in _SPLIT_NAMES]
    splits = f" ({', '.join(found)}: splits, not classes; name one of them, or call it {part})" if found else ""
    raise UserError(f"{data_dir} holds no class folders: expected {data_dir}/{layout}{splits}")


def class_folders(root: Path, info: ModelInfo, class_map: Path | None) -> dict[str, int]:
    """The class folders in ``root`` with the class index of each; see :func:`oracle.data.classes.class_indices`."""
    return class_indices(class_names_in(root), info, class_map)


def class_names_in(root: Path) -> list[str]:
    """The names of the class folders in ``root``, sorted."""
    return sorted(entry.name for entry in root.iterdir() if _is_class(entry))


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not is_hidden(entry.name)
