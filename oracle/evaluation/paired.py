"""Differences with their intervals and p-values, and the correction for making many comparisons.

Two numbers measured on the same images are compared image by image (paired): their two intervals may overlap although one
is clearly above the other. Only where the images differ are two samples compared as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import comb
from typing import TypedDict

import numpy as np

RESAMPLES = 10_000
"""Of every bootstrap; the smallest p-value it can give is 2 / 10,001."""

LEVEL = 0.05
"""A comparison whose p-value (corrected, where there are several) is below this is a difference."""

_BLOCK = 2**22
"""Numbers drawn at a time."""


class Difference(TypedDict):
    """A mean difference: JSON-ready.

    Keys:
        value: first minus second, in the units of the values.
        interval: 95 % bootstrap percentiles; None with fewer than two values.
        p: two-sided p-value of "no difference".
    """

    value: float
    interval: list[float] | None
    p: float


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of one family of comparisons, in the order given (Holm 1979).

    Comparing each adjusted value with 0.05 keeps the chance of one or more false claims in the whole family below 5 %.

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, (len(p_values) - rank) * float(p_values[position]))
        adjusted[position] = min(highest, 1.0)
    return adjusted


def mcnemar(right: np.ndarray, base: np.ndarray) -> float:
    """Exact two-sided McNemar p-value of two methods that are right or wrong on the same images.

    Args:
        right, base: (images,) bool.

    >>> mcnemar(np.array([True] * 6), np.array([False] * 6))
    0.03125
    """
    from scipy.stats import binomtest  # takes longer to import than some commands to run

    gained, lost = int((right & ~base).sum()), int((base & ~right).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_difference(values_a: np.ndarray, values_b: np.ndarray) -> Difference:
    """Mean of ``values_a`` minus mean of ``values_b``, both on the same images.

    The p-value is McNemar's where both are right-or-wrong (bool), and the bootstrap's elsewhere.

    Args:
        values_a, values_b: (images,) bool or numbers, images in the same order.

    Raises:
        ValueError: different numbers of images, or none.

    >>> paired_difference(np.array([True, True, False, True]), np.array([True, False, False, True]))["value"]
    0.25
    """
    if len(values_a) != len(values_b) or not len(values_a):
        raise ValueError(f"paired values belong to the same images, not {len(values_a)} and {len(values_b)}")
    differences = values_a.astype(float) - values_b.astype(float)
    found = _bootstrapped(float(differences.mean()), lambda stream, n: _means(differences, stream, n), len(differences))
    if values_a.dtype == bool and values_b.dtype == bool:
        return found | {"p": mcnemar(values_a, values_b)}
    # So few images can never say more: even a sign test of unanimous differences has this p-value.
    return found | {"p": max(found["p"], min(1.0, 2.0 ** (1 - np.count_nonzero(differences))))}


def unpaired_difference(values_a: np.ndarray, values_b: np.ndarray) -> Difference:
    """Mean of ``values_a`` minus mean of ``values_b`` on different images: a bootstrap of both samples.

    Args:
        values_a, values_b: (images,) numbers, of any lengths but 0.

    Raises:
        ValueError: a sample without values.
    """
    first, second = values_a.astype(float), values_b.astype(float)
    if not len(first) or not len(second):
        raise ValueError("an empty sample has no mean")

    def draw(stream: np.random.Generator, count: int) -> np.ndarray:
        return np.asarray(_means(first, stream, count) - _means(second, stream, count))

    found = _bootstrapped(float(first.mean() - second.mean()), draw, min(len(first), len(second)))
    return found | {"p": max(found["p"], min(1.0, 2 / comb(len(first) + len(second), len(first))))}


def _means(values: np.ndarray, stream: np.random.Generator, count: int) -> np.ndarray:
    """Means of ``count`` resamples with replacement."""
    return np.concatenate(
        [values[stream.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in _blocks(count, len(values))]
    )


def _blocks(count: int, size: int) -> Iterator[int]:
    step = max(1, _BLOCK // size)
    yield from (min(step, count - start) for start in range(0, count, step))


def _bootstrapped(value: float, draw: Callable[[np.random.Generator, int], np.ndarray], images: int) -> Difference:
    """Interval and p-value of a mean difference from its resamples: twice the share on the other side of zero."""
    if images < 2:
        return {"value": value, "interval": None, "p": 1.0}
    drawn = draw(np.random.default_rng(0), RESAMPLES)
    low, high = np.percentile(drawn, [2.5, 97.5])
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return {
        "value": value,
        "interval": [float(low), float(high)],
        "p": float(min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))),
    }
