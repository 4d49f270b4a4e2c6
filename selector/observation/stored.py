"""Arrays of observations that stay on disk: read by rows, from blocks of images in safetensors files.

Files are mapped for the moment of a question only, so that what a process holds is what it asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dynamic.integrity import read_arrays

IN_MEMORY = 2**29
"""Bytes of observations that are read at once, the smallest arrays first; larger ones stay on disk."""

_TYPES = {"F16": np.float16, "F32": np.float32, "I32": np.int32, "BOOL": np.bool_}
"""Of safetensors, those that observations are kept in."""


@dataclass(frozen=True)
class Blocks:
    """The files of some images, each with the same arrays of so many of them.

    Attributes:
        files: in the order of the images.
        size: images of each file; of the last one fewer.
    """

    files: tuple[Path, ...]
    size: int

    @cached_property
    def _headers(self) -> list[tuple[int, dict[str, Any]]]:
        """Where the arrays of each file begin, and where in them which is."""
        found = []
        for path in self.files:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                found.append((8 + length, json.loads(file.read(length))))
        return found

    def mapped(self, block: int, name: str) -> NDArray[Any]:
        """One array of one file."""
        begin, header = self._headers[block]
        facts = header[name]
        with self.files[block].open("rb") as file:  # a third of the time of numpy's memmap
            content = mmap(file.fileno(), 0, access=ACCESS_READ)
        shape, place = tuple(facts["shape"]), begin + facts["data_offsets"][0]
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(content, _TYPES[facts["dtype"]], count, place).reshape(shape)


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array of N images in :class:`Blocks`, or of some of their rows and columns; what is indexed is read.

    ``values[rows]`` and ``values[rows, column]`` are ordinary arrays, ``np.asarray(values)`` is all of it.

    Attributes:
        blocks: where it is.
        name: of the array in each file.
        rows: (N,) which images of the blocks.
        tail: shape of one image's values.
        dtype: of what is read.
        columns: of the first axis behind the images; all unless given.
    """

    blocks: Blocks
    name: str
    rows: np.ndarray
    tail: tuple[int, ...]
    dtype: np.dtype[Any]
    columns: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As of any array."""
        tail = self.tail if self.columns is None else (len(self.columns), *self.tail[1:])
        return (len(self.rows), *tail)

    @property
    def nbytes(self) -> int:
        """Of all of it, once it is read."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def taken(self, rows: np.ndarray | slice) -> StoredArray:
        """The same of some images, by position or mask; nothing is read."""
        return StoredArray(self.blocks, self.name, self.rows[rows], self.tail, self.dtype, self.columns)

    def among(self, columns: Sequence[int]) -> StoredArray:
        """The same of some columns; nothing is read."""
        kept = np.arange(self.tail[0]) if self.columns is None else self.columns
        return StoredArray(self.blocks, self.name, self.rows, self.tail, self.dtype, kept[np.asarray(columns, int)])

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if len(rest) > 1 or isinstance(rows, int | np.integer) or (rest and not isinstance(rest[0], int | np.integer)):
            raise IndexError(f"{self.name} is on disk: index it by rows, and one column, or read it with np.asarray")
        wanted = self.rows[rows]
        if rest:
            column = int(rest[0])
            return self._read(wanted, column if self.columns is None else int(self.columns[column]))
        return self._read(wanted, self.columns)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)

    def _read(self, rows: np.ndarray, column: int | np.ndarray | None) -> np.ndarray:
        tail = self.tail if column is None else self.tail[1:] if isinstance(column, int) else (len(column), *self.tail[1:])
        found = np.empty((len(rows), *tail), self.dtype)
        block, place = np.divmod(rows, self.blocks.size)
        order = np.argsort(block, kind="stable")
        for where in np.split(order, np.flatnonzero(np.diff(block[order])) + 1) if len(rows) else ():
            there = self.blocks.mapped(int(block[where[0]]), self.name)
            at = place[where]
            if column is None:
                found[where] = there[at]
            elif isinstance(column, int):
                found[where] = there[at, column]
            else:
                found[where] = there[at[:, None], column]
        return found


Values = np.ndarray | StoredArray
"""What is observed of images, in memory or on disk."""


def rows_of(values: Values, rows: np.ndarray | slice) -> Values:
    """Some images of an array, wherever it is."""
    return values.taken(rows) if isinstance(values, StoredArray) else values[rows]


def columns_of(values: Values, columns: Sequence[int]) -> Values:
    """Some columns of an array, wherever it is."""
    return values.among(columns) if isinstance(values, StoredArray) else values[:, columns]


def read_blocks(blocks: Blocks, widened: Collection[str], in_memory: int = IN_MEMORY) -> dict[str, Values]:
    """Every array of the blocks by name, once each file was compared with its digest.

    Args:
        blocks: at least one.
        widened: names of arrays that are kept in half precision and read as float32.
        in_memory: bytes that are read at once, the smallest arrays first; the others stay on disk.

    Raises:
        UserError: a file is missing or damaged.
    """
    first = read_arrays(blocks.files[0])
    types = {name: np.dtype(np.float32 if name in widened else values.dtype) for name, values in first.items()}
    each = {name: values[:1].size * types[name].itemsize for name, values in first.items()}
    order, most = sorted(each, key=each.__getitem__), len(first["readable"]) * len(blocks.files)
    sums = np.cumsum([each[name] * most for name in order])
    read = [name for name, bytes_ in zip(order, sums, strict=True) if bytes_ <= in_memory]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in read}
    count = 0
    for path in blocks.files:
        found = read_arrays(path)
        count += len(found["readable"])
        for name in read:
            parts[name].append(found[name].astype(types[name]))
    held: dict[str, Values] = {name: np.concatenate(parts.pop(name)) for name in read}
    rows = np.arange(count)
    for name in order[len(read) :]:
        held[name] = StoredArray(blocks, name, rows, first[name].shape[1:], types[name])
    return held
