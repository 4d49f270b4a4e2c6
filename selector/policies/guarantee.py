"""What a policy's accuracy is at least, compared with the default's: bounds that hold whatever the images are like.

Two pieces. A lower confidence bound of the difference in accuracy, by betting (Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", JRSS B 2024), with stakes that aim at winning with the last image (Voráček and Orabona,
"STaR-Bets", 2025): it assumes nothing but that images are drawn alike, and is nearly as narrow as a normal interval. And
fixed-sequence testing along a policy's dial, from accurate to cheap (Angelopoulos et al., "Learn then test", 2021; of early
exits Jazbec et al., "Fast yet safe", 2024): a setting may be used for a tolerance only if all settings before it may, so
that trying many settings costs no confidence.

The differences are those of held-out label images: policies fitted on three of four folds, judged on the fourth. So a bound
speaks for policies fitted on three quarters of the labels. A test repeats all of it over 200 splits of images into label and
test images, and counts how often the test images break what was promised.
"""

from __future__ import annotations

from math import log

import numpy as np

CONFIDENCE = 0.95
"""Share of label sets, at least, for which the guarantee of what was chosen holds."""

_TRIED = 48
"""Means that a bound is looked for among: from six standard errors below the average up to it."""

_STAKE = 0.75
"""Share of the fortune that a single image may take, at most."""


def lower_bounds(gains: np.ndarray, error: float, seed: int = 0) -> np.ndarray:
    """Lower confidence bounds of means, each by itself.

    Whoever bets, image by image, that a mean is larger than m wins 1 / ``error`` times the stake with a probability of at
    most ``error`` where it is not. The bound is the largest m up to which that was won.

    Args:
        gains: (settings, N) differences between -1 and 1, such as right under a policy less right under the default.
        error: probability, at most, with which a mean lies below its bound.
        seed: of the order in which the images are bet on.

    Returns:
        (settings,) float64 bounds, from -1 to 1.

    >>> rng = np.random.default_rng(0)
    >>> gains = (rng.random((1, 4000)) < 0.06) * rng.choice([-1, 1], 4000)  # 6 % of answers differ, as often for the better
    >>> bound = lower_bounds(gains, 0.05)
    >>> bool(gains.mean() - 0.008 < bound[0] < gains.mean() - 0.006)  # a normal interval: 0.0064
    True
    """
    count = gains.shape[1]
    order = np.random.default_rng(seed).permutation(count)
    shares = (gains[:, order].astype(np.float64) + 1) / 2  # in [0, 1], where bets are made
    width = 6 * np.sqrt((shares.var(axis=1) + 1 / count) / count)
    means = np.clip(shares.mean(axis=1)[:, None] - width[:, None] * np.linspace(1, 0, _TRIED), 1e-9, 1)
    wanted, fortune = log(1 / error), np.zeros_like(means)
    squares = np.full_like(means, 0.25)  # of what was seen before an image, as if one had been seen
    for position in range(count):
        off = shares[:, position, None] - means
        missing = np.maximum(wanted - fortune, 0)
        stakes = np.sqrt(2 * missing * (position + 1) / ((count - position) * squares))
        fortune += np.log1p(np.minimum(stakes, _STAKE / means) * off)  # who has won stakes nothing any more
        squares += off * off
    won = (fortune >= wanted) | (means <= 1e-9)
    last = np.where(won.all(axis=1), _TRIED, np.argmin(won, axis=1)) - 1
    found = np.where(last >= 0, means[np.arange(len(means)), np.maximum(last, 0)], 0.0)
    return np.asarray(2 * found - 1)


def guaranteed(right: np.ndarray, base: np.ndarray, tried: int = 1, confidence: float = CONFIDENCE) -> np.ndarray:
    """What each setting of a policy gains over the default at least, no more than any setting before it.

    Args:
        right: (settings, N) bool, whether each setting is right about each image; settings from accurate to cheap.
        base: (N,) bool, the same of the default.
        tried: policies among which one is to be chosen; what may go wrong is divided among them (Bonferroni).
        confidence: that the guarantee of what is chosen holds.

    Returns:
        (settings,) differences in accuracy, never rising. For a tolerance fixed beforehand, every setting above
        ``-tolerance`` loses no more than that.
    """
    bounds = lower_bounds(right.astype(np.int8) - base.astype(np.int8), (1 - confidence) / tried)
    return np.asarray(np.minimum.accumulate(bounds))
