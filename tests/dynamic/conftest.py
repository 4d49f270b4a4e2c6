from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from dynamic.scenes import load_photographs


@pytest.fixture
def training_folder(tmp_path: Path) -> Path:
    """The first label photographs, in the files and format of Fashion-MNIST's training set."""
    images, labels = load_photographs("label")
    for name, array in (("images-idx3", images[:60]), ("labels-idx1", labels[:60].astype(np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return tmp_path
