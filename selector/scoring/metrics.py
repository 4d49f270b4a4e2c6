"""How good a policy is: accuracy, cost, and the share of the gap to the oracle it closes, with paired intervals.

In terms of algorithm selection the single best solver (SBS) is the configuration that is right most often on the label
split, the virtual best solver (VBS) is the oracle, and the closed gap is (accuracy - SBS) / (VBS - SBS) on the test split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.evaluation.bounds import cost_order, interval
from oracle.evaluation.paired import mcnemar
from selector.observation.observations import Observations
from selector.policies.running import PolicyRun
from selector.scoring.gaps import closed_gap, closed_gap_interval, share_interval
from selector.scoring.mixture import mixture_accuracy
from selector.scoring.resampling import draw_resamples, percentile_interval, resampled_means


@dataclass(frozen=True, kw_only=True)
class References:
    """What policies are measured against, on one split of N images.

    Attributes:
        default, single_best, oracle: (N,) bool, whether each is right.
        cheapest_right: (N,) MACs of the cheapest configuration that is right; -1 where none is.
        static_macs: (K,) MACs of the static configurations.
        static_accuracy: (K,) their accuracies.
        draws: (R, N) uint16, see :func:`selector.scoring.resampling.draw_resamples`.
        resampled: (R, 3) accuracies of default, single best and oracle in every resample.
        resampled_static: (R, K) accuracies of the static configurations in every resample.
    """

    default: np.ndarray
    single_best: np.ndarray
    oracle: np.ndarray
    cheapest_right: np.ndarray
    static_macs: np.ndarray
    static_accuracy: np.ndarray
    draws: np.ndarray
    resampled: np.ndarray
    resampled_static: np.ndarray

    @classmethod
    def of(cls, observed: Observations, single_best: int, oracle: PolicyRun, seed: int = 0) -> References:
        """Measure a split.

        Args:
            observed: the split.
            single_best: column of the configuration that was chosen on the label split.
            oracle: what came of the oracle's choices.
            seed: of the bootstrap.
        """
        correct, macs = observed.correct, observed.costs.whole
        order = cost_order(macs)
        cheapest = macs[order[np.argmax(correct[:, order], axis=1)]]
        right = correct[:, observed.default], correct[:, single_best], oracle.predicted == observed.labels
        draws = draw_resamples(len(observed), seed)
        return cls(
            default=right[0],
            single_best=right[1],
            oracle=right[2],
            cheapest_right=np.where(correct.any(axis=1), cheapest, -1),
            static_macs=macs,
            static_accuracy=correct.mean(axis=0),
            draws=draws,
            resampled=resampled_means(np.stack(right, axis=1), draws),
            resampled_static=resampled_means(correct, draws),
        )


def discordant(right: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """Images that only the one, and only the other, gets right, and McNemar's exact two-sided p.

    Args:
        right, base: (N,) bool.

    >>> discordant(np.array([True] * 8 + [False]), np.array([False] * 8 + [True]))
    {'won': 8, 'lost': 1, 'p': 0.0390625}
    """
    return {"won": int((right & ~base).sum()), "lost": int((base & ~right).sum()), "p": mcnemar(right, base)}


def paired(right: np.ndarray, base: np.ndarray, references: References) -> dict[str, Any]:
    """The difference of two accuracies on the same images, with its interval, and :func:`discordant`; JSON-ready.

    Args:
        right, base: (N,) bool.
        references: of these images.
    """
    difference = right.astype(np.float64) - base
    resampled = resampled_means(difference, references.draws)
    return {"value": float(difference.mean()), "interval": list(percentile_interval(resampled))} | discordant(right, base)


def measure(outcome: PolicyRun, observed: Observations, references: References) -> dict[str, Any]:
    """Everything about one policy on one split, JSON-ready.

    GMACs are 10^9 multiply-accumulates an image (one multiply-add = 1) and include the selector's own. ``above_hull`` is the
    difference from the best mixture of two static configurations for the same mean MACs, with hindsight; its interval draws
    the hull, and the policy's MACs, anew in every resample.
    """
    right = outcome.predicted == observed.labels
    rows = np.arange(len(observed))
    quality = observed.quality
    solvable = observed.correct.any(axis=1)
    run = observed.costs.whole[outcome.columns]
    macs = outcome.macs.mean()
    accuracy, spent = resampled_means(np.stack([right, outcome.macs], axis=1), references.draws).T
    default, single_best, oracle = references.resampled.T
    mixture = mixture_accuracy(references.static_macs, references.static_accuracy[None], macs[None])[0]
    resampled_mixture = mixture_accuracy(references.static_macs, references.resampled_static, spent)
    gap = closed_gap(right, references.single_best, references.oracle)
    recovered = closed_gap(right, references.default, references.oracle)
    return {
        "accuracy": float(right.mean()),
        "accuracy_ci": list(interval(right)),
        "gmacs": float(macs / 1e9),
        "gmacs_selector": float((outcome.macs - run).mean() / 1e9),
        "closed_gap": gap,
        "closed_gap_ci": None if gap is None else _listed(share_interval(accuracy, single_best, oracle)),
        "recovered_gap": recovered,
        "recovered_gap_ci": None if recovered is None else _listed(share_interval(accuracy, default, oracle)),
        "versus_default": _difference(right.mean() - references.default.mean(), accuracy - default)
        | discordant(right, references.default),
        "versus_single_best": _difference(right.mean() - references.single_best.mean(), accuracy - single_best)
        | discordant(right, references.single_best),
        "above_hull": _difference(right.mean() - mixture, accuracy - resampled_mixture),
        "regret": float((quality.max(axis=1) - quality[rows, outcome.columns]).mean()),
        "right_and_cheapest": float((right & (run <= references.cheapest_right))[solvable].mean())
        if solvable.any()
        else None,
        "configurations_used": len(np.unique(outcome.columns)),
    }


def measure_gap(outcome: PolicyRun, observed: Observations, references: References) -> dict[str, Any]:
    """Accuracy, cost and closed gap alone, JSON-ready; units as in :func:`measure`."""
    right = outcome.predicted == observed.labels
    found = closed_gap_interval(right, references.single_best, references.oracle, references.draws)
    return {
        "accuracy": float(right.mean()),
        "gmacs": float(outcome.macs.mean() / 1e9),
        "closed_gap": closed_gap(right, references.single_best, references.oracle),
        "closed_gap_ci": _listed(found),
    }


def _difference(value: float, resampled: np.ndarray) -> dict[str, Any]:
    return {"value": float(value), "interval": list(percentile_interval(resampled))}


def _listed(found: tuple[float, float] | None) -> list[float] | None:
    return None if found is None else list(found)
