"""How the closed gap grows with the number of label images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.running import run_recorded
from selector.scoring.metrics import References, measure_gap

SIZES = (250, 500, 1000, 2000, 4000, 8000)
"""Label images, and all there are."""

LEARNERS = ("neighbours", "correctness", "cascade")
"""Policies that are fitted anew."""


def learning_curve(
    policies: Sequence[Policy], label: Observations, test: Observations, references: References
) -> list[dict[str, Any]]:
    """Accuracy, GMACs and closed gap after fitting on the first 250, 500, ... label images.

    Each policy is at its most accurate setting, as all label images have it: one fit a size, where cross-validation for a
    setting of its own would be six. JSON-ready, a row for each policy of :data:`LEARNERS` among ``policies`` and each size;
    what was fitted on all label images is taken as it is.

    Args:
        policies: fitted, with operating points.
        label: their images.
        test: scored on.
        references: of the test images.
    """
    rows = []
    sizes = [size for size in SIZES if size < len(label)] + [len(label)]
    chosen = [policy for policy in policies if policy.name in LEARNERS]
    for policy in tqdm(chosen, desc="learning curve", unit="policy", mininterval=0):
        point = policy.point("accuracy", 1.0, np.inf)
        assert point is not None
        for size in sizes:
            whole = size == len(label) and policy.fitted_on_ == frozenset(map(str, label.keys))
            fitted = policy if whole else policy.fresh().fit(label.rows(np.arange(size)))
            (outcome,) = run_recorded(fitted, test, [point.dial])
            rows.append({"policy": policy.name, "images": size} | measure_gap(outcome, test, references))
    return rows
