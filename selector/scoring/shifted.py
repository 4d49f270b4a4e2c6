"""The same policies on images unlike those they learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.running import PolicyRuns
from selector.scoring.curves import static_points
from selector.scoring.ranking import rank


def beyond(test: Observations, label: Observations) -> Observations:
    """Of the test images those whose objects are smaller or larger than all of the label images'.

    Both must know the true sides.
    """
    assert test.sides is not None
    assert label.sides is not None
    return test.rows(np.asarray((test.sides < label.sides.min()) | (test.sides > label.sides.max())))


def shifted_test(name: str, policies: Sequence[Policy], label: Observations, test: Observations) -> dict[str, Any]:
    """Rank the policies on images of another run, JSON-ready.

    Args:
        name: of the other run.
        policies: fitted.
        label: images they learned from.
        test: of the other run, under the same portfolio.
    """
    return {
        "run": name,
        "images": len(test),
        "policies": rank(policies, label, PolicyRuns(test)).rows,
        "static": static_points(test),
    }
