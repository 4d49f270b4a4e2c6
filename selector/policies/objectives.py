"""What a policy is chosen for, what each setting of it promises, and whether that is better than the default.

The default is the network as it was trained, without any choice: what does not beat it is never recommended or activated.
Promises are estimates on label images, and the best of hundreds of settings is the best partly by luck. So a gain counts
where a 95 % interval that holds for all settings at once, paired with the default image by image, lies above zero; a
saving where the accuracy is within :data:`TOLERANCE` of the default's, the interval rules out a loss of more than
:data:`RISK`, and it is no less than :data:`SAVING`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, get_args

import numpy as np

Objective = Literal["accuracy", "default_cost", "efficiency"]
"""Best accuracy at any cost; best accuracy at no more than the default's cost; the default's accuracy, less
:data:`TOLERANCE`, at least cost."""

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

OBJECTIVE_WORDS: dict[Objective, str] = {
    "accuracy": "best accuracy at any cost",
    "default_cost": "best accuracy at no more than the default's cost",
    "efficiency": "the default's accuracy, less half a point, at least cost",
}

TOLERANCE = 0.005
"""Accuracy that the objective ``efficiency`` may give up."""

RISK = 0.02
"""Loss of accuracy that the labels must rule out before MACs are saved. At :data:`TOLERANCE` itself no few thousand labels
could rule anything out; without a limit the cheapest of many settings passes by luck on a hundred labels."""

SAVING = 0.05
"""Share of the default's MACs that a policy must save to be worth running: below it the time to decide, which MACs hardly
show, takes back what is saved."""

Z = 1.96
"""Standard errors to either side in a 95 % interval."""


@dataclass(frozen=True)
class OperatingPoint:
    """What one setting of a dial promises, estimated on label images the policy was not fitted on.

    Attributes:
        dial: the setting.
        accuracy: expected share of right answers.
        macs: expected MACs an image, the policy's own included.
        error: standard error of the difference in accuracy from the default, see :func:`paired_error`, widened so that
            :data:`Z` of it to either side hold for all settings of all policies tried (:func:`simultaneous`); None where
            nobody noted it, as in runs of earlier versions: then estimates count as they are.
    """

    dial: float
    accuracy: float
    macs: float
    error: float | None = None


def paired_error(right: np.ndarray, base: np.ndarray) -> float:
    """Standard error of the difference between two accuracies on the same images.

    Agresti and Min's (2005, Statistics in Medicine 24), with half an image added to each cell: ten images on which nothing
    differs do not prove that nothing ever does.

    Args:
        right, base: (N,) bool, whether each is right about the same images.

    >>> even = np.ones(1000, bool)
    >>> round(paired_error(even, even), 4), round(paired_error(even[:10], even[:10]), 4)
    (0.001, 0.0833)
    """
    count = len(right) + 2
    won, lost = (right & ~base).sum() + 0.5, (base & ~right).sum() + 0.5
    return sqrt(won + lost - (won - lost) ** 2 / count) / count


def simultaneous(right: np.ndarray, base: np.ndarray, tried: int = 1, draws: int = 4000) -> float:
    """Standard errors to either side that 95 % intervals need which are to hold for all settings at once.

    The largest deviation of any setting, by a Gaussian multiplier bootstrap over the images (Chernozhukov, Chetverikov and
    Kato 2013), so settings that agree count little more than one. At least :data:`Z`.

    Args:
        right: (settings, N) bool, whether each setting is right about each image.
        base: (N,) bool, the same of the default.
        tried: families of settings from which one is chosen; the level is divided among them (Bonferroni).
        draws: of the bootstrap.

    >>> rng = np.random.default_rng(0)
    >>> base = rng.random(500) < 0.8
    >>> alike = np.repeat((base ^ (rng.random(500) < 0.1))[None], 20, axis=0)
    >>> unlike = base ^ (rng.random((20, 500)) < 0.1)
    >>> round(simultaneous(alike, base), 1), round(simultaneous(unlike, base), 1)
    (2.0, 3.0)
    """
    gains = right.astype(np.float32) - base.astype(np.float32)
    gains -= gains.mean(axis=1, keepdims=True)
    scales = np.sqrt((gains**2).sum(axis=1))
    gains = gains[scales > 0] / scales[scales > 0, None]
    if not len(gains):
        return Z
    stream = np.random.default_rng(0)
    parts = (stream.standard_normal((min(500, draws - start), len(base)), np.float32) for start in range(0, draws, 500))
    largest = np.concatenate([np.abs(part @ gains.T).max(axis=1) for part in parts])
    return max(Z, float(np.quantile(largest, 1 - 0.05 / tried)))


def beats(point: OperatingPoint, default: OperatingPoint, objective: Objective) -> bool:
    """Whether a setting is better than the default in the objective's own terms; see the module.

    A setting that saves MACs at the default's accuracy or more also serves the two objectives that look for accuracy.

    >>> default = OperatingPoint(0.0, 0.42, 148e6)
    >>> beats(OperatingPoint(0.0, 0.395, 157e6), default, "efficiency")
    False
    >>> beats(OperatingPoint(0.0, 0.43, 150e6, error=0.02), default, "accuracy")  # within noise
    False
    >>> beats(OperatingPoint(0.0, 0.418, 100e6, error=0.004), default, "efficiency")
    True
    """
    gain, noise = point.accuracy - default.accuracy, Z * (point.error or 0.0)
    saves = point.macs <= (1 - SAVING) * default.macs and gain >= -TOLERANCE and gain - noise >= -RISK
    if objective == "efficiency":
        return saves
    affordable = objective == "accuracy" or point.macs <= default.macs
    return affordable and (gain > noise or (saves and gain >= 0))


def best(points: Sequence[OperatingPoint], objective: Objective, default: OperatingPoint) -> OperatingPoint | None:
    """The point that serves an objective best: of those that beat the default, else of all; None of none.

    >>> default = OperatingPoint(0.0, 0.8, 2e6)
    >>> points = [OperatingPoint(0.0, 0.9, 3e6), OperatingPoint(1.0, 0.8, 1e6)]
    >>> [best(points, objective, default).dial for objective in OBJECTIVES]
    [0.0, 1.0, 1.0]
    """
    if not points:
        return None
    points = [point for point in points if beats(point, default, objective)] or points
    if objective == "default_cost":
        within = [point for point in points if point.macs <= default.macs]
        if not within:
            return min(points, key=lambda p: p.macs)
        points = within
    if objective == "efficiency":
        good = [point for point in points if point.accuracy >= default.accuracy - TOLERANCE]
        if good:
            return min(good, key=lambda point: (point.macs, -point.accuracy))
    return max(points, key=lambda point: (point.accuracy, -point.macs))


def labels_needed(point: OperatingPoint, default: OperatingPoint, objective: Objective, labels: int) -> int | None:
    """Label images after which an estimate like this one would beat the default; None where no number would do.

    The standard error falls with the square root of the number.

    Args:
        point: an estimate that does not beat the default.
        default: its estimate.
        objective: in whose terms.
        labels: images that both were estimated on.

    >>> default = OperatingPoint(0.0, 0.8, 2e6)
    >>> labels_needed(OperatingPoint(0.0, 0.82, 2e6, error=0.02), default, "accuracy", 250)
    961
    >>> labels_needed(OperatingPoint(0.0, 0.80, 1e6, error=0.02), default, "efficiency", 250)
    961
    >>> labels_needed(OperatingPoint(0.0, 0.70, 1e6, error=0.02), default, "efficiency", 250)  # worse, not unclear
    """
    gain, error = point.accuracy - default.accuracy, point.error
    if error is None or not beats(OperatingPoint(point.dial, point.accuracy, point.macs), default, objective):
        return None
    room = max(
        gain, gain + RISK if point.macs <= (1 - SAVING) * default.macs and (gain >= 0 or objective == "efficiency") else 0.0
    )
    return ceil(labels * (Z * error / room) ** 2 - 1e-9) if room > 0 else None
