"""What the outcomes say: quality, worst/median/best case, preferred configurations, portfolios (paper, sections 3 and 4).

Plain functions on arrays; rows are images, columns are configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


def quality(predicted: np.ndarray, p_true: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability of the true class, plus 1 if the prediction is right (paper, eq. 1).

    Args:
        predicted: (images, configurations) class indices.
        p_true: (images, configurations) probability of the true class.
        labels: (images,) true classes.

    Returns:
        (images, configurations) float32.
    """
    return p_true.astype(np.float32) + (predicted == labels[:, None])


@dataclass(frozen=True)
class Cases:
    """For each image, whether the configuration of lowest, median and highest quality is right; (images,) bool each."""

    worst: np.ndarray
    median: np.ndarray
    best: np.ndarray


def cases(qualities: np.ndarray, correct: np.ndarray) -> Cases:
    """Worst, median and best case of each image.

    The median of an even number of configurations is the lower of the two in the middle.
    """
    order = np.argsort(qualities, axis=1, kind="stable")
    middle = (qualities.shape[1] - 1) // 2
    rows = np.arange(len(qualities))
    return Cases(*(correct[rows, order[:, position]] for position in (0, middle, -1)))


def cost_order(macs: np.ndarray) -> np.ndarray:
    """Positions of the configurations from fewest MACs to most; ties in order of id."""
    return np.argsort(macs, kind="stable")


def preferred(qualities: np.ndarray, macs: np.ndarray) -> np.ndarray:
    """Position of each image's preferred configuration: highest quality, then fewer MACs, then lower id."""
    order = cost_order(macs)
    return order[np.argmax(qualities[:, order], axis=1)]


def oracle_choice(qualities: np.ndarray, correct: np.ndarray, macs: np.ndarray) -> np.ndarray:
    """What the oracle runs: the preferred configuration; the cheapest of all where none is right."""
    return np.where(correct.any(axis=1), preferred(qualities, macs), cost_order(macs)[0])


def cheapest_correct(correct: np.ndarray, macs: np.ndarray) -> np.ndarray:
    """Position of the cheapest configuration that is right, -1 where none is."""
    order = cost_order(macs)
    return np.where(correct.any(axis=1), order[np.argmax(correct[:, order], axis=1)], -1)


def single_best(correct: np.ndarray, macs: np.ndarray) -> int:
    """Position of the configuration that is right most often; ties go to fewer MACs, then to the lower id.

    Give it the label split only: chosen on the test split it would not be a baseline.
    """
    order = cost_order(macs)
    return int(order[np.argmax(correct.sum(axis=0)[order])])


def greedy_portfolio(correct: np.ndarray, macs: np.ndarray, size: int) -> list[int]:
    """Configurations chosen one after the other for the best case they reach together (paper, Fig. 3).

    Each is the one that makes most of the images right that none before it did; ties go to fewer MACs, then to the lower
    id. Ends early when no further configuration adds an image.
    """
    order = cost_order(macs)
    left = correct
    chosen: list[int] = []
    while len(chosen) < min(size, len(macs)):
        gains = left.sum(axis=0)[order]
        position = int(np.argmax(gains))
        if gains[position] == 0 and chosen:
            break
        chosen.append(int(order[position]))
        left = left[~left[:, chosen[-1]]]
    return chosen


def portfolio_curve(correct: np.ndarray, chosen: list[int]) -> list[float]:
    """Best case of the first 1, 2, ... configurations of a portfolio, as fractions."""
    return [float(share) for share in np.logical_or.accumulate(correct[:, chosen], axis=1).mean(axis=0)]


def unique_predictions(predicted: np.ndarray) -> np.ndarray:
    """How many different classes each image's configurations predict, (images,) (paper, Fig. 2)."""
    ordered = np.sort(predicted, axis=1)
    return 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)


def hull(macs: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Positions on the upper convex hull from the cheapest to the most accurate: what mixing two constants can reach."""
    order = np.lexsort((-accuracy, macs))
    kept: list[int] = []
    for position in order:
        if kept and accuracy[position] <= accuracy[kept[-1]]:
            continue
        while len(kept) > 1:
            (x0, y0), (x1, y1) = ((macs[i], accuracy[i]) for i in kept[-2:])
            if (accuracy[position] - y0) * (x1 - x0) >= (y1 - y0) * (macs[position] - x0):
                kept.pop()
            else:
                break
        kept.append(int(position))
    return np.array(kept)


def interval(right: np.ndarray) -> tuple[float, float]:
    """95 % Wilson interval of the share of True; not by scipy.stats, whose import keeps a service's first page waiting.

    >>> [round(bound, 3) for bound in interval(np.array([True] * 8 + [False] * 2))]
    [0.49, 0.943]
    """
    count, share = len(right), float(right.mean())
    z = NormalDist().inv_cdf(0.975)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5 / (1 + z**2 / count)
    return 0.0 if share == 0 else middle - margin, 1.0 if share == 1 else middle + margin


def paired_interval(right: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference between two accuracies on the same images.

    Agresti and Min's (2005, Statistics in Medicine 24), with half an image added to each cell: ten images on which nothing
    differs do not prove that nothing ever does.

    Args:
        right, base: (N,) bool, whether each is right about the same images.

    >>> even = np.ones(1000, bool)
    >>> [round(bound, 3) for bound in (*paired_interval(even, even), *paired_interval(even[:10], even[:10]))]
    [-0.002, 0.002, -0.163, 0.163]
    >>> three = np.arange(10) < 3  # of ten right where the other is not, which McNemar's exact test does not call different
    >>> [round(bound, 3) for bound in paired_interval(three, np.zeros(10, bool))]
    [-0.044, 0.544]
    """
    count = len(right) + 2
    won, lost = (right & ~base).sum() + 0.5, (base & ~right).sum() + 0.5
    margin = 1.96 * float(np.sqrt(won + lost - (won - lost) ** 2 / count)) / count
    centre = float(won - lost) / count
    return max(-1.0, centre - margin), min(1.0, centre + margin)
