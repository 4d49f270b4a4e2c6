"""What the oracle needs of a data set: labelled images in two splits, read in batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from dynamic.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of a source.

    Attributes:
        images: (rows, channels, H, W) float32, normalised; zeros where not readable.
        readable: (rows,) bool.
        problems: what was wrong with each unreadable image, by key.
    """

    images: Tensor
    readable: np.ndarray
    problems: dict[str, str] = field(default_factory=dict)


class ImageSource(Protocol):
    """Labelled images; first all of the label split, then all of the test split, see :mod:`oracle.data.splits`.

    Attributes:
        identity: what makes two runs on it comparable; compared when a run is resumed.
        keys: (images,) stable name of each image.
        splits: (images,) "label" or "test".
        labels: (images,) int64 class index of the network's output.
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
