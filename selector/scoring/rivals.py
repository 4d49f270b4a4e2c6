"""What people would use instead of a policy: the best static network that costs no more."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracle.evaluation.bounds import single_best
from selector.observation.observations import Observations
from selector.policies.running import PolicyRun
from selector.scoring.metrics import References, discordant
from selector.scoring.resampling import percentile_interval, resampled_means


def versus_static(outcome: PolicyRun, label: Observations, test: Observations, references: References) -> dict[str, Any]:
    """A policy against the configuration that is best on the label split of those that cost no more, JSON-ready.

    Args:
        outcome: of the policy on the test images.
        label: chooses the rival.
        test: both are scored on.
        references: of the test images.
    """
    affordable = np.flatnonzero(label.costs.whole <= outcome.macs.mean() * (1 + 1e-9))
    if not len(affordable):
        affordable = np.flatnonzero(label.costs.whole == label.costs.whole.min())
    column = int(affordable[single_best(label.correct[:, affordable], label.costs.whole[affordable])])
    right, base = outcome.predicted == test.labels, test.correct[:, column]
    difference = right.astype(np.float64) - base
    resampled = resampled_means(difference, references.draws)
    found = {"value": float(difference.mean()), "interval": list(percentile_interval(resampled))}
    return {"configuration": label.portfolio[column].id} | found | discordant(right, base)
