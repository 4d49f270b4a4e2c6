"""Numbers with their 95 % intervals, JSON-ready: ``{"value": ..., "interval": [low, high]}``."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracle.evaluation import bounds

RESAMPLES = 1000
"""Of every bootstrap interval (95 %, percentiles, images drawn with replacement)."""


def share(right: np.ndarray) -> dict[str, Any]:
    """The fraction of True with its Wilson interval."""
    return {"value": float(right.mean()), "interval": list(bounds.interval(right))}


def resampled(statistic: Any, *samples: np.ndarray) -> dict[str, Any]:
    """A statistic of paired samples with its bootstrap interval; None for the interval where it is undefined."""
    from scipy.stats import bootstrap  # takes longer to import than some commands to run

    value = float(statistic(*samples))
    if len(samples[0]) < 2:
        return {"value": value, "interval": None}
    result = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, method="percentile", paired=True, vectorized=False, rng=0
    ).confidence_interval
    known = np.isfinite([result.low, result.high]).all()
    return {"value": value, "interval": [float(result.low), float(result.high)] if known else None}
