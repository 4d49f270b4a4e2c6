"""How good a policy is: accuracy, cost, and the share of the gap to the oracle it closes, with paired intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from oracle.evaluation.bounds import cost_order, hull, interval
from selector.learning.fitting import Played
from selector.observation.observe import Observations
from selector.policies.constant import quality_of

RESAMPLES = 2000
"""Of every bootstrap interval: 95 %, percentiles, images drawn with replacement, the same draws for all policies."""


@dataclass(frozen=True)
class References:
    """What policies are measured against, on one split; rows are images.

    Attributes:
        default, single_best, oracle: (N,) bool, whether each is right.
        draws: (RESAMPLES, N) how often each image is in each resample, uint16.
        cheapest_right: (N,) MACs of the cheapest configuration that is right; -1 where none is.
        corners: columns of the static configurations' hull, by MACs.
    """

    default: np.ndarray
    single_best: np.ndarray
    oracle: np.ndarray
    draws: np.ndarray
    cheapest_right: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, observed: Observations, single_best: int, oracle: Played, seed: int = 0) -> References:
        """Measure a split; ``single_best`` was chosen on the label split."""
        correct, macs = observed.correct, observed.costs.whole
        order = cost_order(macs)
        first = macs[order[np.argmax(correct[:, order], axis=1)]]
        stream = np.random.default_rng(seed)
        count = len(observed)
        draws = stream.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.uint16)
        return cls(
            correct[:, observed.default],
            correct[:, single_best],
            oracle.predicted == observed.labels,
            draws,
            np.where(correct.any(axis=1), first, -1),
            hull(macs, correct.mean(axis=0)),
        )


def closed_gap(right: np.ndarray, base: np.ndarray, oracle: np.ndarray) -> float | None:
    """(accuracy - base) / (oracle - base); None where the oracle is no better than the base."""
    gap = oracle.mean() - base.mean()
    return None if gap == 0 else float((right.mean() - base.mean()) / gap)


def closed_gap_interval(
    right: np.ndarray, base: np.ndarray, oracle: np.ndarray, draws: np.ndarray
) -> tuple[float, float] | None:
    """95 % interval of :func:`closed_gap`; None where that is undefined, in the sample or in most resamples."""
    if closed_gap(right, base, oracle) is None:
        return None
    stacked = np.stack([right, base, oracle], axis=1).astype(np.float32)
    accuracy, low, high = (draws.astype(np.float32) @ stacked).T / draws[0].sum()
    known = high > low
    if known.mean() < 0.5:
        return None
    shares = (accuracy - low)[known] / (high - low)[known]
    bounds = np.percentile(shares, [2.5, 97.5])
    return float(bounds[0]), float(bounds[1])


def difference(right: np.ndarray, base: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """Paired difference of two accuracies with its 95 % interval."""
    each = right.astype(np.float32) - base.astype(np.float32)
    sums = draws.astype(np.float32) @ each / draws[0].sum()
    return {"value": float(each.mean()), "interval": [float(bound) for bound in np.percentile(sums, [2.5, 97.5])]}


def mcnemar(right: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test: images that only the one, and only the other, gets right."""
    won, lost = int((right & ~base).sum()), int((base & ~right).sum())
    return {"won": won, "lost": lost, "p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0}


def mixed(observed: Observations, corners: np.ndarray, macs: float) -> np.ndarray:
    """(N,) expected correctness of a coin that runs one of two constants and costs ``macs`` on average.

    The two are neighbours on the hull of static configurations on this very split: the best coin with hindsight.
    """
    cost = observed.costs.whole[corners].astype(float)
    right = observed.correct[:, corners].astype(np.float64)
    after = int(np.searchsorted(cost, macs).clip(1, max(len(cost) - 1, 1)))
    if len(cost) == 1:
        return np.asarray(right[:, 0])
    share = float(np.clip((macs - cost[after - 1]) / (cost[after] - cost[after - 1]), 0, 1))
    return np.asarray((1 - share) * right[:, after - 1] + share * right[:, after])


def measure(played: Played, observed: Observations, references: References) -> dict[str, Any]:
    """Everything about one policy on one split, JSON-ready. MACs are in units of 10^9 and include the selector's own."""
    right = played.predicted == observed.labels
    rows = np.arange(len(observed))
    quality = quality_of(observed)
    solvable = observed.correct.any(axis=1)
    run = observed.costs.whole[played.columns]
    average = played.macs.mean()
    low, high = interval(right)
    coin = mixed(observed, references.corners, float(average))
    gap = closed_gap_interval(right, references.single_best, references.oracle, references.draws)
    recovered = closed_gap_interval(right, references.default, references.oracle, references.draws)
    return {
        "accuracy": float(right.mean()),
        "accuracy_ci": [low, high],
        "gmacs": float(average / 1e9),
        "gmacs_selector": float((played.macs - run).mean() / 1e9),
        "closed_gap": closed_gap(right, references.single_best, references.oracle),
        "closed_gap_ci": None if gap is None else list(gap),
        "recovered_gap": closed_gap(right, references.default, references.oracle),
        "recovered_gap_ci": None if recovered is None else list(recovered),
        "versus_default": difference(right, references.default, references.draws) | mcnemar(right, references.default),
        "versus_single_best": difference(right, references.single_best, references.draws)
        | mcnemar(right, references.single_best),
        "above_hull": difference(right, coin, references.draws),
        "regret": float((quality.max(axis=1) - quality[rows, played.columns]).mean()),
        "right_and_cheapest": float((right & (run <= references.cheapest_right))[solvable].mean())
        if solvable.any()
        else None,
        "configurations_used": len(np.unique(played.columns)),
    }


def area(points: list[tuple[float, float]], low: float, high: float) -> float:
    """Mean accuracy over MACs between ``low`` and ``high`` of what (MACs, accuracy) points reach by mixing two of them."""
    macs, accuracy = (np.array(values) for values in zip(*points, strict=True))
    corners = hull(macs, accuracy)
    at = np.linspace(low, high, 200)
    reached = np.interp(at, macs[corners], accuracy[corners], left=0.0)
    return float(reached.mean())
