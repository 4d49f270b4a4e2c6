"""Whether the test images keep what label images guaranteed (:mod:`selector.policies.guarantee`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selector.policies.base import Policy
from selector.scoring.curves import Point


def kept(guaranteed: float | None, versus_default: Mapping[str, Any]) -> str:
    """``held`` where the difference found is at least what was guaranteed; ``broken`` where even its interval lies below.

    Args:
        guaranteed: difference in accuracy from the default, at least; None where nothing was.
        versus_default: ``value`` and ``interval`` of the difference on the test images.

    >>> kept(-0.01, {"value": -0.012, "interval": [-0.015, -0.009]})  # lower, but that may be these images' luck
    'within noise'
    """
    if guaranteed is None:
        return ""
    if versus_default["value"] >= guaranteed:
        return "held"
    return "broken" if versus_default["interval"][1] < guaranteed else "within noise"


def promises(
    policies: Sequence[Policy], curves: Mapping[str, Sequence[Point]], default: float
) -> dict[str, list[list[float]]]:
    """By learned policy, for each setting of its dial, what was guaranteed and what was found, JSON-ready.

    Args:
        policies: fitted.
        curves: of their dials on the test images, see :func:`selector.scoring.curves.dial_curves`.
        default: the default's accuracy on these.

    Returns:
        Pairs of differences in accuracy from the default; policies of which nothing is guaranteed are left out.
    """
    return {
        policy.name: [
            [float(point.guaranteed), accuracy - default]
            for point, (_, accuracy) in zip(policy.points_, curves[policy.name], strict=True)
            if point.guaranteed is not None
        ]
        for policy in policies
        if policy.learned and policy.terms_ is not None and len(curves.get(policy.name, ())) == len(policy.points_)
    }


def promised_sentences(promised: Mapping[str, Sequence[Sequence[float]]], terms: Mapping[str, float] | None) -> list[str]:
    """How many of the settings kept what was guaranteed; nothing where nothing was."""
    if terms is None or not promised:
        return []
    settings = [(least, found) for points in promised.values() for least, found in points]
    missed = [least - found for least, found in settings if found < least]
    worst = f", by at most {100 * max(missed):.2f} points" if missed else ""
    return [
        f"Label images guaranteed with {terms['confidence']:.0%} confidence how far a setting is below the default at most: "
        f"of {len(settings)} settings of learned policies, {len(missed)} are further below it on the test images{worst}."
    ]
