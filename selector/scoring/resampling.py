"""The paired bootstrap: images drawn with replacement, the same draws for every policy and reference."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
"""Of every bootstrap interval."""

_BLOCK = 2**18
"""Draws that are held in double precision at once, so that they stay in a core's cache."""


def draw_resamples(count: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of ``count`` images is in each resample.

    Returns:
        (resamples, count) uint16; rows sum to ``count``.

    >>> draw_resamples(5, resamples=3).sum(axis=1).tolist()
    [5, 5, 5]
    """
    stream, even = np.random.default_rng(seed), np.full(count, 1 / count)
    draws = np.empty((resamples, count), np.uint16)
    step = max(1, _BLOCK // max(count, 1))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        draws[start : start + size] = stream.multinomial(count, even, size=size)
    return draws


def resampled_means(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mean of per-image values in every resample.

    Args:
        values: (N,) or (N, columns), numbers or bool.
        draws: (resamples, N), see :func:`draw_resamples`.

    Returns:
        (resamples,) or (resamples, columns) float64.

    >>> resampled_means(np.array([0.0, 1.0, 5.0]), np.array([[1, 1, 1], [2, 1, 0]])).round(2).tolist()
    [2.0, 0.33]
    """
    values = values.astype(np.float64)
    count = draws.shape[1]
    blocks = np.array_split(draws, -(-draws.size // _BLOCK) or 1)
    return np.concatenate([block.astype(np.float64) @ values for block in blocks]) / count


def percentile_interval(estimates: np.ndarray) -> tuple[float, float]:
    """95 % interval of a statistic from its values in all resamples, by percentiles.

    >>> percentile_interval(np.arange(1001) / 1000)
    (0.025, 0.975)
    """
    low, high = np.percentile(estimates, [2.5, 97.5])
    return float(low), float(high)
