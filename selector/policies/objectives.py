"""What a policy is chosen for, what each setting of it promises, and whether that is better than the default.

The default is the network as it was trained, without any choice: what does not beat it is never recommended or activated.
Promises are estimates on label images, and the best of hundreds of settings is the best partly by luck. So what counts is
what is guaranteed (:mod:`selector.policies.guarantee`): a gain where it lies above zero; a saving where the accuracy given
up is no more than the tolerance, and the saving no less than :data:`SAVING`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal, get_args

from dynamic.errors import UserError
from selector.policies.guarantee import CONFIDENCE

Objective = Literal["accuracy", "default_cost", "efficiency"]
"""Best accuracy at any cost; best accuracy at no more than the default's cost; the default's accuracy, less a tolerance, at
least cost."""

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

OBJECTIVE_WORDS: dict[Objective, str] = {
    "accuracy": "best accuracy at any cost",
    "default_cost": "best accuracy at no more than the default's cost",
    "efficiency": "the default's accuracy, within the tolerance, at least cost",
}

TOLERANCE = 0.01
"""Accuracy that the objective ``efficiency`` may give up, at most: what some thousand labels can guarantee."""

SAVING = 0.05
"""Share of the default's MACs that a policy must save to be worth running: below it the time to decide, which MACs hardly
show, takes back what is saved."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Of a guarantee: fixed before anything is fitted, since a tolerance that is looked for afterwards holds less often.

    Attributes:
        tolerance: accuracy that may be given up for fewer MACs, at most.
        confidence: that what is chosen keeps to it.
    """

    tolerance: float = TOLERANCE
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise UserError(f"--tolerance is a share of images, from 0 to less than 1 (0.01: a point), not {self.tolerance}")
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"--confidence is a share, from 0.5 to less than 1, not {self.confidence}")


TERMS = Terms()
"""Unless others are asked for."""


@dataclass(frozen=True)
class OperatingPoint:
    """What one setting of a dial promises, estimated on label images the policy was not fitted on.

    Attributes:
        dial: the setting.
        accuracy: expected share of right answers.
        macs: expected MACs an image, the policy's own included.
        guaranteed: difference in accuracy from the default, at least, see :func:`selector.policies.guarantee.guaranteed`;
            None where nobody noted it, as in runs of earlier versions: then estimates count, but may use up half of a
            tolerance only.
    """

    dial: float
    accuracy: float
    macs: float
    guaranteed: float | None = None


def beats(point: OperatingPoint, default: OperatingPoint, objective: Objective, tolerance: float = TOLERANCE) -> bool:
    """Whether a setting is better than the default in the objective's own terms; see the module.

    A setting that saves MACs at the default's accuracy or more also serves the two objectives that look for accuracy.

    >>> default = OperatingPoint(0.0, 0.42, 148e6)
    >>> beats(OperatingPoint(0.0, 0.395, 157e6), default, "efficiency")
    False
    >>> beats(OperatingPoint(0.0, 0.43, 150e6, guaranteed=-0.02), default, "accuracy")  # within noise
    False
    >>> beats(OperatingPoint(0.0, 0.418, 100e6, guaranteed=-0.008), default, "efficiency")
    True
    """
    gain = point.accuracy - default.accuracy
    surely, spent = (gain, tolerance / 2) if point.guaranteed is None else (point.guaranteed, tolerance)
    saves = point.macs <= (1 - SAVING) * default.macs and surely >= -spent
    if objective == "efficiency":
        return saves
    affordable = objective == "accuracy" or point.macs <= default.macs
    return affordable and (surely > 0 or (saves and gain >= 0))


def best(
    points: Sequence[OperatingPoint], objective: Objective, default: OperatingPoint, tolerance: float = TOLERANCE
) -> OperatingPoint | None:
    """The point that serves an objective best: of those that beat the default, else of all; None of none.

    >>> default = OperatingPoint(0.0, 0.8, 2e6)
    >>> points = [OperatingPoint(0.0, 0.9, 3e6), OperatingPoint(1.0, 0.8, 1e6)]
    >>> [best(points, objective, default).dial for objective in OBJECTIVES]
    [0.0, 1.0, 1.0]
    """
    if not points:
        return None
    beating = [point for point in points if beats(point, default, objective, tolerance)]
    points = beating or points
    if objective == "default_cost":
        within = [point for point in points if point.macs <= default.macs]
        if not within:
            return min(points, key=lambda p: p.macs)
        points = within
    if objective == "efficiency":
        good = beating or [point for point in points if point.accuracy >= default.accuracy - tolerance / 2]
        if good:
            return min(good, key=lambda point: (point.macs, -point.accuracy))
    return max(points, key=lambda point: (point.accuracy, -point.macs))


def labels_needed(
    point: OperatingPoint, default: OperatingPoint, objective: Objective, labels: int, tolerance: float = TOLERANCE
) -> int | None:
    """Label images after which an estimate like this one would beat the default; None where no number would do.

    What an estimate is above what is guaranteed falls with the square root of the number.

    Args:
        point: an estimate that does not beat the default.
        default: its estimate.
        objective: in whose terms.
        labels: images that both were estimated on.
        tolerance: accuracy that may be given up.

    >>> default = OperatingPoint(0.0, 0.8, 2e6)
    >>> labels_needed(OperatingPoint(0.0, 0.82, 2e6, guaranteed=-0.02), default, "accuracy", 250)
    1000
    >>> labels_needed(OperatingPoint(0.0, 0.80, 1e6, guaranteed=-0.02), default, "efficiency", 250)
    1000
    >>> labels_needed(OperatingPoint(0.0, 0.70, 1e6, guaranteed=-0.2), default, "efficiency", 250)  # worse, not unclear
    """
    gain = point.accuracy - default.accuracy
    hoped = replace(point, guaranteed=gain)  # as of labels without end
    if point.guaranteed is None or not beats(hoped, default, objective, tolerance):
        return None
    saves = point.macs <= (1 - SAVING) * default.macs and (gain >= 0 or objective == "efficiency")
    room = gain + tolerance if saves else gain
    return ceil(labels * ((gain - point.guaranteed) / room) ** 2 - 1e-9) if room > 0 else None
