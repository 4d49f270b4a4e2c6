"""Fig. 5: preferred options and scale (section 4.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from oracle.study.outcomes import SpaceOutcomes
from oracle.study.part import Part, Section, Study
from oracle.study.preferences import HEADER, option_lines, preferences, table, trend, views
from oracle.study.regimes import widest
from oracle.study.sets import SMALLEST_VIEW, Planner

RESIZES = (0.25, 0.5, 2.0, 4.0)
"""Factors beside 1."""


def by_side(outcomes: SpaceOutcomes, bins: int = 4) -> list[dict[str, Any]]:
    """:func:`preferences` in bins of the true object side with about equally many images (section 4.5, on scenes)."""
    assert outcomes.sides is not None
    order = np.argsort(outcomes.sides, kind="stable")
    rows = []
    for part in np.array_split(order, min(bins, len(order))):
        chosen, sides = outcomes.rows(part), outcomes.sides[part]
        rows.append({"sides": [float(sides.min()), float(sides.max())]} | preferences(chosen))
    return rows


def _needs(planner: Planner) -> None:
    planner.add_other_regime()
    for factor in RESIZES:
        if planner.network.info.resolution * factor >= SMALLEST_VIEW:
            share = 5 if factor <= 1 else 10  # enlarged images cost most
            planner.add(f"resize-{factor:g}", resize=factor, images=max(planner.images // share, 1))


def _compute(study: Study) -> dict[str, Any]:
    factors = sorted([1.0, *(f for f in RESIZES if f"resize-{f:g}" in study.outcomes)])
    sets = {f"{factor:g}": "main" if factor == 1 else f"resize-{factor:g}" for factor in factors}
    result: dict[str, Any] = {
        "resized": {space: views({factor: study.of(name, space) for factor, name in sets.items()}) for space in study.names}
    }
    wide = widest(study)
    if wide is not None and wide in study.outcomes:
        result["true_side"] = {space: by_side(study.of(wide, space)) for space in study.names}
    return result


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    series = {space: [(f"× {factor}", found) for factor, found in sizes.items()] for space, sizes in data["resized"].items()}
    for space, bins in data.get("true_side", {}).items():
        series[space] = [*series[space], *((f"side {b['sides'][0]:.0f}–{b['sides'][1]:.0f} px", b) for b in bins)]
    notes = [
        trend(data["resized"], "image"),
        "In the paper larger images prefer larger strides in every layer; dilation and size do the inverse in layer A and "
        "grow with the image in layer D.",
    ]
    if "true_side" in data:
        notes.append(
            "Sides are the true sides of the objects in the wide regime, a scale that the network was not trained on at "
            "either end; the images themselves keep their size."
        )
    return Section(notes, HEADER, table(series))


def _draw(data: dict[str, Any]) -> Figure:
    """Mean preferred option of each layer by image size and, on scenes, by true object side."""
    rows: list[tuple[str, dict[str, list[tuple[float, dict[str, Any]]]]]] = [
        (
            "resized by",
            {space: [(float(factor), found) for factor, found in sizes.items()] for space, sizes in data["resized"].items()},
        )
    ]
    if "true_side" in data:
        sides = {
            space: [(float(np.sqrt(np.prod(found["sides"]))), found) for found in bins]
            for space, bins in data["true_side"].items()
        }
        rows.append(("true object side, px", sides))
    return option_lines(rows, logarithmic=True)


PART = Part(
    name="fig5",
    order=70,
    label="Fig. 5",
    what="preferred options and scale (section 4.5)",
    needs=_needs,
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
