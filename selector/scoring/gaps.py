"""The closed gap of some images, with numpy alone: the benchmark's number, and the live one of a service."""

from __future__ import annotations

import numpy as np

from selector.scoring.resampling import percentile_interval, resampled_means


def closed_gap(right: np.ndarray, base: np.ndarray, oracle: np.ndarray) -> float | None:
    """(accuracy - base) / (oracle - base); None where the oracle is no better than the base.

    Args:
        right, base, oracle: (N,) bool, whether each is right about the same images.

    >>> closed_gap(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.array([1, 1, 1, 0]))
    0.5
    """
    gap = oracle.mean() - base.mean()
    return None if gap == 0 else float((right.mean() - base.mean()) / gap)


def closed_gap_interval(
    right: np.ndarray, base: np.ndarray, oracle: np.ndarray, draws: np.ndarray
) -> tuple[float, float] | None:
    """95 % interval of :func:`closed_gap`; None where that is undefined, in the sample or in most resamples."""
    if closed_gap(right, base, oracle) is None:
        return None
    return share_interval(*resampled_means(np.stack([right, base, oracle], axis=1), draws).T)


def share_interval(accuracy: np.ndarray, base: np.ndarray, oracle: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the closed gap from (R,) accuracies in every resample; None where it is undefined in most."""
    known = oracle > base
    if known.mean() < 0.5:
        return None
    return percentile_interval((accuracy - base)[known] / (oracle - base)[known])
