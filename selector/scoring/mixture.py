"""Randomised mixtures of two static configurations: what a cost buys without looking at any image.

Running one of two configurations by lot reaches every point between them, so the static configurations reach their upper
convex hull. A policy that is not above it could be replaced by a lottery.
"""

from __future__ import annotations

import numpy as np


def mixture_accuracy(macs: np.ndarray, accuracy: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Accuracy of the best mixture of at most two static configurations that costs ``budget`` on average.

    It is the height of the upper convex hull, which is flat beyond the most accurate configuration. A budget below the
    cheapest configuration gets that one.

    Args:
        macs: (K,) MACs of the configurations.
        accuracy: (R, K) their accuracies in R samples.
        budget: (R,) mean MACs to be spent.

    Returns:
        (R,) float64.

    >>> macs, accuracy = np.array([10, 20, 40]), np.array([[0.5, 0.7, 0.8]] * 4)
    >>> mixture_accuracy(macs, accuracy, np.array([5.0, 15.0, 30.0, 99.0])).round(3).tolist()
    [0.5, 0.6, 0.75, 0.8]
    """
    macs = macs.astype(np.float64)
    affordable = macs <= np.maximum(budget, macs.min())[:, None]
    best = np.where(affordable, accuracy, -np.inf).max(axis=1)
    for cheap in range(len(macs)):  # with each dearer one, where the budget lies between the two
        dear = np.flatnonzero(macs > macs[cheap])
        if not len(dear):
            continue
        share = (budget[:, None] - macs[cheap]) / (macs[dear] - macs[cheap])
        mixed = (1 - share) * accuracy[:, [cheap]] + share * accuracy[:, dear]
        between = (share >= 0) & (share <= 1)
        best = np.maximum(best, np.where(between, mixed, -np.inf).max(axis=1))
    return np.asarray(best)
