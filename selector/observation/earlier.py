"""Observations of fewer images of the same source: set aside when a run was extended, and taken over."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dynamic.integrity import read_arrays, read_record
from oracle.data.digests import digest_of
from oracle.data.sources import SPLITS, ImageSource

IDENTITY = "identity.json"


class Earlier:
    """What an earlier folder of observations holds of a source's images.

    Args:
        folder: of the observations; None where there are none.
        rows: of the source, one for each image observed there, in its order.
        block: images a file.
    """

    def __init__(self, folder: Path | None, rows: np.ndarray, block: int) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._places: dict[int, tuple[int, int]] = {}
        if folder is None:
            return
        for start in range(0, len(rows), block):
            path = block_file(folder, start)
            if path.exists():
                part = rows[start : start + block].tolist()
                self._places |= {row: (len(self._files), place) for place, row in enumerate(part)}
                self._files.append(path)

    def has(self, rows: np.ndarray) -> np.ndarray:
        """(rows,) bool: which rows of the source were observed."""
        return np.array([int(row) in self._places for row in rows], dtype=bool)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Everything about rows that were observed, by name."""
        places = [self._places[int(row)] for row in rows]
        blocks = {part: read_arrays(self._files[part]) for part in dict(places)}
        names = next(iter(blocks.values()))
        return {name: np.stack([blocks[part][name][place] for part, place in places]) for name in names}

    def drop(self) -> None:
        """Delete the folder: all that it held was taken over."""
        if self._folder is not None:
            _discard(self._folder)


def block_file(out: Path, start: int) -> Path:
    """The file of the images from ``start`` on."""
    return out / f"{start:07d}.safetensors"


def set_aside(out: Path, identity: Mapping[str, str], source: ImageSource, block: int) -> Earlier:
    """The observations in ``out`` where they are of fewer images than the source has, and ``out`` cleared of them.

    Args:
        out: folder of observations, there or not.
        identity: that observations of all images have.
        source: all images.
        block: images a file.
    """
    aside = out.with_name(out.name + ".before")
    for folder in (out, aside):
        shutil.rmtree(_discarded(folder), ignore_errors=True)  # of a start that was interrupted
        if folder.exists() and not (folder / IDENTITY).exists():  # of which images its blocks are, nobody knows
            _discard(folder)
    if (out / IDENTITY).exists() and _fewer(read_record(out / IDENTITY), identity, source) is not None:
        if aside.exists():  # it was extended before, and that was interrupted: the older ones are whole
            _discard(out)
        else:
            os.rename(out, aside)
    if not aside.exists():
        return Earlier(None, np.arange(0), block)
    rows = _fewer(read_record(aside / IDENTITY), identity, source)
    if rows is None:  # of another network or other images
        _discard(aside)
        return Earlier(None, np.arange(0), block)
    return Earlier(aside, rows, block)


def _discarded(folder: Path) -> Path:
    """A name that is never read."""
    return folder.with_name(folder.name + ".gone")


def _discard(folder: Path) -> None:
    """Delete a folder of observations; interrupted at any moment, it is there as a whole or not at all."""
    gone = _discarded(folder)
    if gone.exists():
        shutil.rmtree(gone)
    os.rename(folder, gone)
    shutil.rmtree(gone)


def _fewer(stored: Mapping[str, str], identity: Mapping[str, str], source: ImageSource) -> np.ndarray | None:
    """Rows of ``source`` that observations with the identity ``stored`` are of; None where they are not fewer of the same.

    Fewer images are the first ones of each split.
    """
    found = re.match(r"(\d+) \(", str(stored.get("images")))
    if found is None or stored == identity or {**stored, "images": identity["images"]} != identity:
        return None
    wanted = int(found[1])
    splits = [np.flatnonzero(source.splits == split) for split in SPLITS]
    for each in range(1, max(map(len, splits)) + 1):
        rows = np.concatenate([split[:each] for split in splits])
        if len(rows) >= wanted:
            same = digest_of(source.keys[rows], source.labels[rows]) == stored["images"]
            return rows if same and len(rows) < len(source.keys) else None
    return None
