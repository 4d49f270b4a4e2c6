"""What a folder of images holds, from names, sizes and headers alone: for a person to look at before anything is run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dynamic.errors import UserError
from dynamic.pictures import refusal
from oracle.data.folders import class_names_in, find_root, reason_of
from oracle.data.listing import MANY, READERS, ImageFile, as_text, describe_copies, list_images, without_copies
from oracle.data.splits import SPLITS, split_of


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """What :func:`inspect_folder` found.

    Attributes:
        root: the folder that holds the class folders.
        classes: images that count, by class folder; an empty folder has 0.
        splits: images that count, by split.
        short_sides: smallest, median and largest short side in pixels; None where no image can be read.
        modes: images by Pillow's mode of them: RGB, L, P, RGBA, CMYK, ...
        copies: files that are left out since they are another's copy.
        described_copies: one line that says which; empty where there are none.
        unreadable: what is wrong with each image whose header cannot be read, by key; others turn out damaged only when
            they are decoded.
        refused: why the service would refuse images that are counted here, by key.
        hidden, others: images with hidden names, and files that are no images; both are left out.
    """

    root: Path
    classes: Mapping[str, int]
    splits: Mapping[str, int]
    short_sides: tuple[int, int, int] | None
    modes: Mapping[str, int]
    copies: int
    described_copies: str
    unreadable: Mapping[str, str]
    refused: Mapping[str, str]
    hidden: int
    others: int

    @property
    def images(self) -> int:
        """How many count, readable or not."""
        return sum(self.classes.values())

    def lines(self) -> list[str]:
        """For people, a few sentences."""
        counts = self.classes.values()
        each = f"{min(counts)} to {max(counts)}" if min(counts) != max(counts) else str(min(counts))
        split = ", ".join(f"{count} in the {name} split" for name, count in self.splits.items())
        found = [f"{self.root}: {self.images} images in {len(self.classes)} class folders, {each} each; {split}"]
        if self.short_sides is not None:
            smallest, median, largest = self.short_sides
            modes = ", ".join(f"{count} {mode}" for mode, count in self.modes.items())
            found.append(f"short sides of {smallest} to {largest} pixels, half of them at most {median}; {modes}")
        if self.copies:
            found.append(self.described_copies)
        if self.unreadable:
            key, reason = next(iter(self.unreadable.items()))
            found.append(f"{len(self.unreadable)} images cannot be read, such as {key}: {reason}")
        if self.refused:
            reasons = "; ".join(f"{count} {reason}" for reason, count in Counter(self.refused.values()).most_common())
            found.append(f"the service would refuse {len(self.refused)}, such as {next(iter(self.refused))}: {reasons}")
        if self.hidden or self.others:
            found.append(f"left out {self.hidden} hidden images and {self.others} files that are no images")
        empty = [name for name, count in self.classes.items() if not count]
        if empty:
            found.append(f"{len(empty)} class folders are empty, such as {empty[0]}")
        return found


def inspect_folder(data_dir: Path, name: str = "imagefolder") -> FolderFacts:
    """Look at the class folders in ``data_dir`` without decoding a picture; a progress bar where they are many.

    Args:
        data_dir: see :func:`oracle.data.folders.find_root`.
        name: of the data set: imagenet, imagenette or imagefolder.

    Raises:
        UserError: no such folder, no class folders in it, or no images in them.
    """
    root = find_root(data_dir, name, "val")
    folders = class_names_in(root)
    listing = list_images(root, {folder: position for position, folder in enumerate(folders)})
    files, dropped = without_copies(listing.images)
    if not files:
        raise UserError(f"{root} holds 0 images in {len(folders)} class folders; expected {root}/CLASS/IMAGE.jpg")
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(total=len(files), desc="headers", unit="image", file=sys.stderr, disable=len(files) < MANY) as progress,
    ):
        headers: list[_Header | str] = []
        for header in pool.map(lambda file: _header(file, root), files):
            headers.append(header)
            progress.update()
    read = [header for header in headers if not isinstance(header, str)]
    sides = sorted(header.side for header in read)
    modes, counts = np.unique([header.mode for header in read], return_counts=True)
    labels = np.bincount([file.label for file in files], minlength=len(folders))
    return FolderFacts(
        root=root,
        classes={as_text(folder): int(count) for folder, count in zip(folders, labels, strict=True)},
        splits={split: sum(split_of(file.key) == split for file in files) for split in SPLITS},
        short_sides=(sides[0], sides[(len(sides) - 1) // 2], sides[-1]) if sides else None,
        modes={str(mode): int(count) for mode, count in sorted(zip(modes, counts, strict=True), key=lambda pair: -pair[1])},
        copies=len(dropped),
        described_copies=describe_copies(dropped) if dropped else "",
        unreadable={file.key: header for file, header in zip(files, headers, strict=True) if isinstance(header, str)},
        refused={
            file.key: header.refusal
            for file, header in zip(files, headers, strict=True)
            if isinstance(header, _Header) and header.refusal
        },
        hidden=len(listing.hidden),
        others=len(listing.others),
    )


class _Header(NamedTuple):
    """Short side in pixels, Pillow's mode, and why the service would refuse the image."""

    side: int
    mode: str
    refusal: str | None


def _header(file: ImageFile, root: Path) -> _Header | str:
    """What the header says; or what is wrong with the image."""
    try:
        with Image.open(file.path) as image:
            return _Header(min(image.size), image.mode, refusal(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return reason_of(error, root)
