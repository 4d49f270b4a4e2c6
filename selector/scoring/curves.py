"""Accuracy against cost on the test split: static configurations, every setting of every dial, and the area below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oracle.evaluation.bounds import hull
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.running import PolicyRuns

Point = Sequence[float]
"""(GMACs an image, accuracy)."""


def static_points(test: Observations) -> dict[str, Any]:
    """GMACs and accuracy of every configuration run statically, JSON-ready."""
    return {
        "configurations": [c.id for c in test.portfolio],
        "gmacs": (test.costs.whole / 1e9).tolist(),
        "accuracy": test.correct.mean(axis=0).tolist(),
    }


def dial_curves(policies: Sequence[Policy], runs: PolicyRuns) -> dict[str, list[list[float]]]:
    """By policy the point of every setting of its dial: for the picture, nothing is chosen from it."""
    found = {}
    for policy in policies:
        if policy.dials:
            outcomes, labels = runs.at(policy, policy.dials), runs.observed.labels
            found[policy.name] = [[float(o.macs.mean() / 1e9), float((o.predicted == labels).mean())] for o in outcomes]
    return found


def areas(curves: Mapping[str, Sequence[Point]], test: Observations) -> dict[str, float]:
    """Mean accuracy over cost, from the cheapest configuration to the default, of each dial and of static mixtures."""
    macs = test.costs.whole / 1e9
    static = [(float(m), float(a)) for m, a in zip(macs, test.correct.mean(axis=0), strict=True)]
    low, high = float(macs.min()), test.costs.default / 1e9
    found = {"static": area(static, low, high)}
    for name, curve in curves.items():
        # A policy may always fall back to a constant; its cheapest point is not its fault.
        found[name] = area([*curve, static[int(macs.argmin())]], low, high)
    return found


def area(points: Sequence[Point], low: float, high: float) -> float:
    """Mean accuracy between two costs of what randomised mixtures of points reach.

    Args:
        points: whose upper convex hull counts.
        low, high: GMACs.

    >>> round(area([(1.0, 0.5), (3.0, 0.7)], 1.0, 3.0), 6)
    0.6
    """
    gmacs, accuracy = np.array(points, dtype=np.float64).T
    corners = hull(gmacs, accuracy)
    at = np.linspace(low, high, 200)
    reached = np.interp(at, gmacs[corners], accuracy[corners], left=0.0)
    return float(reached.mean())
