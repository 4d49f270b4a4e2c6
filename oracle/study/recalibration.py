"""What recalibrated batch norms gain, in both regimes of fashion-scenes (ours)."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from oracle.reporting.figures import BLUE, GREY, grid_of_axes
from oracle.reporting.text import points
from oracle.study.outcomes import cases, gains
from oracle.study.part import Part, Section, Study
from oracle.study.sets import Planner

_ORDER = ("static", "worst", "median", "mean", "best")


def _needs(planner: Planner) -> None:
    planner.add_recalibrated("recalibrated")
    planner.add_other_regime()
    if planner.other_regime:
        planner.add_recalibrated(f"{planner.other_regime}-recalibrated", regime=planner.other_regime)


def _compute(study: Study) -> dict[str, Any]:
    scenes = study.settings.dataset == "fashion-scenes"
    pairs = {study.settings.regime if scenes else str(study.settings.dataset): ("main", "recalibrated")}
    if scenes:
        other = "wide" if study.settings.regime == "matched" else "matched"
        pairs[other] = (other, f"{other}-recalibrated")
    return {
        regime: {
            space: {
                "before": cases(study.of(before, space)),
                "after": cases(study.of(after, space)),
                "gain": gains(study.of(before, space), study.of(after, space)),
            }
            for space in study.names
        }
        for regime, (before, after) in pairs.items()
        if before in study.outcomes and after in study.outcomes
    }


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = [
        [regime, space, *(points(found["gain"][case]) for case in _ORDER)]
        for regime, spaces in data.items()
        for space, found in spaces.items()
    ]
    notes = [
        "Change in percentage points on the same test images, with paired bootstrap intervals. Statistics come from "
        "unlabelled label-split images of the same regime. Mean: accuracy of a configuration drawn at random. The paper has "
        "no such experiment."
    ]
    return Section(notes, ["regime", "space", *_ORDER], rows)


def _draw(data: dict[str, Any]) -> Figure:
    """Each case before and after recalibration, by regime."""
    columns = max(map(len, data.values()))
    figure, grid = grid_of_axes(len(data), columns, 3.2 * columns + 0.6, 2.2 * len(data), sharex=True, sharey=True)
    panels = [(f"{space}, {regime}", found) for regime, spaces in data.items() for space, found in spaces.items()]
    for axes, (title, found) in zip(grid.flat, panels, strict=True):
        for height, case in enumerate(_ORDER):
            before, after = (_value(found[when][case]) for when in ("before", "after"))
            axes.annotate("", (100 * after, height), (100 * before, height), arrowprops={"arrowstyle": "->", "color": BLUE})
            axes.plot(100 * before, height, "o", color=GREY, markersize=4)
        axes.set_xlim(-3, 103)
        axes.set_yticks(range(len(_ORDER)), _ORDER)
        axes.set_title(title, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("accuracy, %")
    return figure


def _value(entry: dict[str, Any] | float) -> float:
    return float(entry["value"]) if isinstance(entry, dict) else entry


PART = Part(
    name="recalibration",
    order=110,
    label="Recalibration",
    what="what recalibrated batch norms gain, in both regimes (ours)",
    needs=_needs,
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
