"""What people would use instead of a policy: the best static network that costs no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.evaluation.bounds import single_best
from selector.observation.observations import Observations
from selector.policies.running import PolicyRun
from selector.scoring.metrics import References, paired
from selector.scoring.networks import StaticNetwork


def versus_static(
    outcome: PolicyRun,
    label: Observations,
    test: Observations,
    references: References,
    networks: Sequence[StaticNetwork] = (),
) -> dict[str, Any]:
    """A policy against what is best on the label split of all that runs statically for no more, JSON-ready.

    Args:
        outcome: of the policy on the test images.
        label: chooses the rival.
        test: both are scored on.
        references: of the test images.
        networks: other networks, which are rivals beside the configurations.
    """
    macs = np.array([*label.costs.whole, *(network.macs for network in networks)])
    seen = np.column_stack([label.correct, *(network.label for network in networks)])
    affordable = np.flatnonzero(macs <= outcome.macs.mean() * (1 + 1e-9))
    if not len(affordable):
        affordable = np.flatnonzero(macs == macs.min())
    chosen = int(affordable[single_best(seen[:, affordable], macs[affordable])])
    count = len(label.portfolio)
    base = test.correct[:, chosen] if chosen < count else networks[chosen - count].test
    name = label.portfolio[chosen].id if chosen < count else networks[chosen - count].name
    return {"configuration": name} | paired(outcome.predicted == test.labels, base, references)
