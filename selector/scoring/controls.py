"""What must come out as nothing: a policy that was fitted on labels of other images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from selector.observation.observations import Observations
from selector.policies.boosting import Correctness
from selector.policies.empty_stem import without_empty_stem
from selector.policies.running import run_recorded
from selector.scoring.metrics import References, measure_gap


def shuffled_control(label: Observations, test: Observations, references: References, seed: int = 0) -> dict[str, Any]:
    """Closed gap of a correctness policy whose labels and answers were shuffled over the images: it must close nothing."""
    order = np.random.default_rng(seed).permutation(len(label))
    answers = ("labels", "probabilities", "predicted", "p_true")
    others = label.rows(order)
    shuffled = replace(label, **{name: getattr(others, name) for name in answers})
    policy = without_empty_stem(Correctness(seed=seed), label)
    (outcome,) = run_recorded(policy.fit(shuffled), test, [0.0])
    return measure_gap(outcome, test, references)
