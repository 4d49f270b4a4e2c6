"""What must come out as nothing: a policy that was fitted on labels of other images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from selector.learning.fitting import play
from selector.observation.images import Recorded
from selector.observation.observe import Observations
from selector.policies.boosting import Correctness
from selector.scoring.metrics import References, measure_gap


def shuffled_control(label: Observations, test: Observations, references: References, seed: int = 0) -> dict[str, Any]:
    """Closed gap of a correctness policy whose labels and answers were shuffled over the images: it must close nothing."""
    order = np.random.default_rng(seed).permutation(len(label))
    shuffled = replace(label, labels=label.labels[order], probabilities=label.probabilities[order])
    return measure_gap(play(Correctness(seed=seed).fit(shuffled), Recorded(test), 0.0), test, references)
