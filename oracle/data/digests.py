"""A short name for a set of images, by which a run that is resumed knows whether it has the same ones."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

_ESCAPES = str.maketrans({"\\": r"\\", " ": r"\s", "\n": r"\n"})
"""A blank or a line break in a name must not look like the next column or row."""


def digest_of(*columns: np.ndarray) -> str:
    """Number of images and a short hash of what is known of each, such as name, label and size of the file.

    Args:
        columns: (images,) each, of anything that ``str`` writes.

    >>> digest_of(np.array(["cat/1.jpg", "dog/1.jpg"]), np.array([0, 1]))
    '2 (0e116ee3369e)'
    """
    text = "\n".join(" ".join(str(value).translate(_ESCAPES) for value in row) for row in zip(*columns, strict=True))
    return f"{len(columns[0])} ({sha256(text.encode()).hexdigest()[:12]})"
