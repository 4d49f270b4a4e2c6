"""What a comparison shows, in words: the one place that turns differences into claims.

Every claim rests on a p-value below 5 %, corrected for the number of comparisons that are made together (Holm). Intervals
of two numbers on the same images are never compared with each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from oracle.evaluation.paired import LEVEL, holm


@dataclass(frozen=True)
class Directions:
    """Names of comparisons by what they show: ``up`` and ``down`` are differences, ``unclear`` are none that is shown."""

    up: list[str]
    down: list[str]
    unclear: list[str]


def directions(differences: Mapping[str, Any]) -> Directions:
    """Sort one family of comparisons by what they show.

    Args:
        differences: by name, with ``value`` and ``p`` as :mod:`oracle.evaluation.paired` gives them.

    >>> directions({"stride": {"value": 0.1, "p": 0.01}, "size": {"value": 0.1, "p": 0.2}})
    Directions(up=['stride'], down=[], unclear=['size'])
    """
    adjusted = dict(zip(differences, holm([found["p"] for found in differences.values()]), strict=True))
    shown = {name: found["value"] for name, found in differences.items() if adjusted[name] < LEVEL}
    return Directions(
        [name for name, value in shown.items() if value > 0],
        [name for name, value in shown.items() if value < 0],
        [name for name in differences if not shown.get(name)],
    )


def tell(
    subject: str,
    differences: Mapping[str, Any],
    *,
    up: str = "rises",
    down: str = "falls",
    how: str = "paired on the same images",
    only: Collection[str] | None = None,
) -> str:
    """A sentence on what a family of comparisons shows.

    Args:
        subject: of the sentence.
        differences: by name, the whole family that was looked at.
        up, down: verbs for what is above and below zero.
        how: what was compared with what.
        only: speak of these comparisons alone, corrected for the whole family.

    >>> tell("The mean", {"stride": {"value": -0.2, "p": 0.001}})
    'The mean falls in stride (paired on the same images, p < 0.05).'
    """
    found = directions(differences)
    kept = {
        words: [name for name in names if only is None or name in only]
        for words, names in ((up, found.up), (down, found.down), ("", found.unclear))
    }
    shown = [f"{words} in {', '.join(names)}" for words, names in kept.items() if words and names]
    unclear = f"no difference is shown in {', '.join(kept[''])}" if kept[""] else ""
    if not shown and not unclear:
        return f"{subject}: nothing to compare."
    claims = "; ".join([*shown, unclear] if unclear else shown)
    return f"{subject}{' ' if shown else ': '}{claims} ({how}, {criterion(len(differences))})."


def criterion(comparisons: int) -> str:
    """From which p-value on a family of comparisons is claimed."""
    corrected = f" after Holm's correction for {comparisons} comparisons" if comparisons > 1 else ""
    return f"p < {LEVEL:g}{corrected}"
