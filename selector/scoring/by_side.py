"""Accuracy and cost by the true side of the object, where the data set knows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from selector.observation.observations import Observations
from selector.scoring.ranking import Ranking

BINS = 5
"""Of equally many images."""


def by_side(ranking: Ranking, test: Observations) -> list[dict[str, Any]]:
    """Accuracy and GMACs of default, single best, oracle and learned policies in bins of the side; none if it is unknown.

    Returns:
        a JSON-ready dict for each bin: ``sides`` (smallest, largest, in pixels), ``images``, and by the name of a row
        ``accuracy`` and ``gmacs``.
    """
    if test.sides is None:
        return []
    shown = [row["name"] for row in ranking.rows if row["learned"] or row["name"] in ("default", "single_best", "oracle")]
    right = {name: ranking.outcomes[name].predicted == test.labels for name in shown}
    order = np.argsort(test.sides, kind="stable")
    return [
        {
            "sides": [float(test.sides[part].min()), float(test.sides[part].max())],
            "images": len(part),
            "accuracy": {name: float(right[name][part].mean()) for name in shown},
            "gmacs": {name: float(ranking.outcomes[name].macs[part].mean() / 1e9) for name in shown},
        }
        for part in np.array_split(order, min(BINS, len(order)))
    ]
