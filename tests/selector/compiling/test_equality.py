"""What counts as equal answers."""

from __future__ import annotations

import numpy as np

from selector.compiling.equality import RARE, Equality
from selector.policies.running import PolicyRun


def _compared(images: int, *, columns: int = 0, charges: int = 0, classes: int = 0) -> Equality:
    """Of so many images, some of which come from another configuration, at another charge or have another class."""
    probabilities = np.tile(np.array([[0.9, 0.1]], np.float32), (images, 1))
    zeros = np.zeros(images, np.int64)
    before = PolicyRun(zeros, zeros, np.full(images, 100.0))
    after = PolicyRun(zeros.copy(), zeros.copy(), np.full(images, 100.0))
    after.columns[:columns] = 1
    after.macs[columns : columns + charges] += 50
    after.predicted[-classes or images :] = 1
    counted = Equality()
    counted.add(before, after, (probabilities, probabilities))
    return counted


def test_rounding_at_a_threshold_is_rare() -> None:
    assert _compared(5 * RARE).holds
    assert _compared(5 * RARE, columns=3, charges=2).holds
    assert not _compared(5 * RARE, columns=3, charges=3).holds
    assert not _compared(5 * RARE, columns=6).holds
    assert _compared(10, columns=1).holds
    assert not _compared(10, charges=1).holds
    assert not _compared(10, columns=1, charges=1).holds


def test_another_class_is_never_excused() -> None:
    counted = _compared(5 * RARE, classes=1)
    assert counted.other_class == 1
    assert not counted.holds
