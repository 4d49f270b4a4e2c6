"""Let a policy decide on some images, then run what it chose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selector.observation.images import Images
from selector.policies.base import Policy


@dataclass(frozen=True)
class PolicyRun:
    """What came of a policy's decisions; rows are images.

    Attributes:
        columns: (N,) the configuration whose answer counts.
        predicted: (N,) the class it predicts.
        macs: (N,) float64 everything that was run for it, the policy's own arithmetic included.
    """

    columns: np.ndarray
    predicted: np.ndarray
    macs: np.ndarray


def run_policy(policy: Policy, images: Images, dial: float | None = None) -> PolicyRun:
    """Decide, then run what was chosen.

    Args:
        policy: fitted on the images' portfolio.
        images: fresh ones, since whatever was asked of them before is charged too.
        dial: see :meth:`Policy.decide`.
    """
    columns = policy.decide(images, dial)
    predicted = np.full(len(images), -1)
    for column in np.unique(columns):
        rows = np.flatnonzero(columns == column)
        predicted[rows] = images.answer(int(column), rows)
    return PolicyRun(columns, predicted, images.spent)
