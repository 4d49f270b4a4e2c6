"""Which split an image belongs to: ``label``, to learn selectors and choose constants on, or ``test``, to report on.

For images in folders a hash of the image's name alone decides. So an image that one run learns from is never a test image of
another run, whatever the seeds, and whatever images are added or left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

SPLITS = ("label", "test")

SPLIT_RULE = "by a hash of each image's name"
"""Part of a folder's identity. Before there was this rule a seeded permutation decided, so older runs do not fit."""


def split_of(key: str) -> str:
    """The split of the image ``key``, its path below the root with ``/`` between folders: either, with equal chance.

    >>> split_of("cat/1.jpg"), split_of("cat/2.jpg")
    ('label', 'test')
    """
    return SPLITS[sha256(key.encode()).digest()[0] >> 7]


def rows_of_splits(keys: Sequence[str], seed: int, images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the label split and of the test split, each in an order that seed and name of each image decide.

    Args:
        keys: names of all images; their order does not matter.
        seed: changes the order within a split, never which images are in it.
        images: keep so many of each split, the first ones; None for all.

    Returns:
        Two arrays of int64 positions in ``keys``; a split may be empty.

    >>> label, test = rows_of_splits(["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"], seed=0)
    >>> label.tolist(), test.tolist()
    ([0], [2, 1])
    """
    place = [sha256(f"{seed} {key}".encode()).digest() for key in keys]
    rows = sorted(range(len(keys)), key=place.__getitem__)
    splits = np.array([split_of(keys[row]) for row in rows], dtype=str)
    ordered = np.array(rows, dtype=np.int64)
    label, test = (ordered[splits == split][:images] for split in SPLITS)
    return label, test
