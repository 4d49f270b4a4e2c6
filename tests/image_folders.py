"""Small folders of images for tests."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, cycle
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from oracle.data.splits import SPLITS, split_of


def fill(root: Path, folders: Mapping[str, int], suffix: str = ".JPEG", height: int = 40, name: str = "") -> list[str]:
    """Write so many images of noise into each folder below ``root``, all of different heights.

    Their names begin with ``name`` and are chosen so that they belong to the label and the test split in turn, across
    folders.

    Returns:
        Their keys, in the order in which they were made: the first is a label image, the second a test image, and so on.
    """
    seed = crc32(repr((*folders, suffix, height, name)).encode())  # another call writes other pixels
    generator, splits, keys = np.random.default_rng(seed), cycle(SPLITS), []
    for folder, images in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        candidates = (f"{folder}/{name}{number}{suffix}" for number in count())
        for _ in range(images):
            split = next(splits)
            key = next(key for key in candidates if split_of(key) == split)
            pixels = generator.integers(0, 255, (height + len(keys), height * 3 // 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / key)
            keys.append(key)
    return keys
