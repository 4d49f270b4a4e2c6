"""Fig. 4: best case and volatility when only some layers are dynamic (section 4.3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dynamic.attributes.registry import attributes
from dynamic.configuration import Configuration, Space
from oracle.evaluation import bounds
from oracle.evaluation.estimates import share
from oracle.evaluation.paired import paired_difference
from oracle.reporting.figures import BLUE, RED, grid_of_axes
from oracle.reporting.text import percent
from oracle.study.drawing import with_errors
from oracle.study.outcomes import SpaceOutcomes
from oracle.study.part import Part, Section, Study
from oracle.study.sentences import tell


def subset_columns(space: Space, default: Configuration, layers: Sequence[int]) -> list[int]:
    """Columns of the configurations that differ from the default only in ``layers``."""
    others = [layer for layer in range(len(default.stride)) if layer not in layers]
    return [
        position
        for position, c in enumerate(space)
        if all(c.options(name)[layer] == default.options(name)[layer] for name in attributes() for layer in others)
    ]


def subsets(outcomes: SpaceOutcomes, default: Configuration) -> list[dict[str, Any]]:
    """Best case and volatility when only some layers are dynamic (section 4.3, Fig. 4), from the full outcomes.

    Volatility: best minus worst case, the share of images on which the choice decides.
    """
    count = len(default.stride)
    rows: list[dict[str, Any]] = []
    first: np.ndarray | None = None
    for size in range(1, count + 1):
        for layers in itertools.combinations(range(count), size):
            part = outcomes.columns(subset_columns(outcomes.space, default, layers))
            reached = bounds.cases(part.quality, part.correct)
            volatile = reached.best & ~reached.worst
            first = volatile if first is None else first
            rows.append(
                {
                    "layers": "".join("ABCDEF"[layer] for layer in layers),
                    "configurations": len(part.space),
                    "best": share(reached.best),
                    "worst": share(reached.worst),
                    "volatility": share(volatile),
                }
            )
            if size == 1 and len(rows) > 1:
                rows[-1]["volatility_above_first"] = paired_difference(volatile, first)
    return rows


def _compute(study: Study) -> dict[str, Any]:
    return {space: subsets(study.of("main", space), study.network.default) for space in study.names}


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = [
        [space, row["layers"], str(row["configurations"]), percent(row["best"]), percent(row["volatility"])]
        for space, found in data.items()
        for row in found
    ]
    singles = {space: [row for row in found if len(row["layers"]) == 1] for space, found in data.items()}
    best = "; ".join(
        f"{space}: {', '.join(row['layers'] + ' ' + percent(row['best']) for row in found)}"
        for space, found in singles.items()
    )
    deeper = {
        f"{space} {row['layers']}": row["volatility_above_first"]
        for space, found in singles.items()
        for row in found
        if "volatility_above_first" in row
    }
    notes = [
        "Computed from the full outcomes: a subset's configurations are those that keep the default in all other layers. "
        "Volatility is the best minus the worst case: the images on which the choice decides. A subset of layers has a "
        "subset of the configurations, so more layers can only raise the best case and the volatility.",
        f"Best case with a single dynamic layer, %: {best}. The paper's are over 80 %.",
    ]
    if deeper:
        sentence = tell("A deeper layer's volatility against layer A's", deeper, up="is higher", down="is lower")
        notes.append(f"{sentence} In the paper deeper layers are less volatile.")
    return Section(notes, ["space", "dynamic layers", "configurations", "best, %", "volatility, points"], rows)


def _draw(data: dict[str, Any]) -> Figure:
    """Best case and volatility of every subset of dynamic layers."""
    figure, axes_grid = grid_of_axes(2, len(data), 3.4 * len(data) + 0.6, 4.6, sharey="row", sharex="col")
    for column, (space, rows) in enumerate(data.items()):
        names = [row["layers"] for row in rows]
        for axes, key, colour in zip(axes_grid[:, column], ("best", "volatility"), (BLUE, RED), strict=True):
            values, errors = with_errors([row[key] for row in rows])
            axes.errorbar(range(len(rows)), values, errors, fmt="o", color=colour, markersize=4, elinewidth=0.8)
            axes.grid(axis="x", alpha=0.25)
        axes_grid[0, column].set_title(space, fontsize=9)
        axes_grid[1, column].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes_grid[0, 0].set_ylabel("best case, %")
    axes_grid[1, 0].set_ylabel("volatility, %")
    return figure


PART = Part(
    name="fig4",
    order=60,
    label="Fig. 4",
    what="subsets of the dynamic layers (section 4.3)",
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
