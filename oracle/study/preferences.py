"""Which options images prefer, and how that changes from view to view (section 4.5, Figs. 5 and 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dynamic.configuration import varied
from oracle.evaluation import bounds
from oracle.evaluation.estimates import resampled, share
from oracle.evaluation.paired import paired_difference, unpaired_difference
from oracle.reporting.figures import grid_of_axes
from oracle.reporting.text import number, percent
from oracle.study.drawing import LAYER_COLOURS, with_errors
from oracle.study.outcomes import SpaceOutcomes
from oracle.study.sentences import tell

HEADER = ["space", "view", "images", "static, %", "best, %", "attribute", "mean preferred in A · B · …"]


def preferred_options(outcomes: SpaceOutcomes) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Rows of the solvable images and, by layer and varied attribute, the option that each of them prefers."""
    solvable: np.ndarray = np.flatnonzero(outcomes.correct.any(axis=1))
    chosen = bounds.preferred(outcomes.quality, outcomes.macs)[solvable]
    configurations = list(outcomes.space)
    names = varied(configurations)
    layers = range(len(configurations[0].stride))
    options = [{n: np.array([c.options(n)[i] for c in configurations], dtype=float)[chosen] for n in names} for i in layers]
    return solvable, options


def preferences(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """Preferred options of each layer over the solvable images, with their mean (section 4.5, Figs. 5 and 7)."""
    solvable, by_layer = preferred_options(outcomes)
    layers = []
    for options in by_layer:
        entry: dict[str, Any] = {}
        for name, values in options.items():
            taken, counts = np.unique(values, return_counts=True)
            entry[name] = {
                "shares": {f"{o:g}": float(n / max(len(values), 1)) for o, n in zip(taken, counts, strict=True)},
                "mean": resampled(np.mean, values) if len(values) else None,
            }
        layers.append(entry)
    return {
        "solvable": len(solvable),
        "images": len(outcomes.correct),
        "static": share(outcomes.correct[:, outcomes.default]),
        "best": share(np.asarray(outcomes.correct.any(axis=1))),
        "layers": layers,
    }


def shifts(first: SpaceOutcomes, last: SpaceOutcomes) -> dict[str, Any]:
    """How the mean preferred options of a view differ from another's, on the images that are solvable in both.

    Paired where the views share images by their keys, otherwise two samples.

    Returns:
        ``paired``, ``images`` (compared; the smaller sample where unpaired) and ``layers``: by layer and attribute the
        difference, None where there is nothing to compare.
    """
    (rows_a, options_a), (rows_b, options_b) = preferred_options(first), preferred_options(last)
    shared = first.keys is not None and last.keys is not None and bool(np.isin(last.keys, first.keys).any())
    if first.keys is not None and last.keys is not None and shared:
        _, mine, theirs = np.intersect1d(first.keys[rows_a], last.keys[rows_b], return_indices=True)
    else:
        mine, theirs = np.arange(len(rows_a)), np.arange(len(rows_b))
    compare = paired_difference if shared else unpaired_difference
    some = min(len(mine), len(theirs)) > 0
    layers = [
        {name: compare(b[name][theirs], a[name][mine]) if some else None for name in a}
        for a, b in zip(options_a, options_b, strict=True)
    ]
    return {"paired": shared, "images": min(len(mine), len(theirs)), "layers": layers}


def views(outcomes: dict[str, SpaceOutcomes]) -> dict[str, Any]:
    """:func:`preferences` of some views, smallest first; in the last, under ``against_first``, its :func:`shifts`."""
    result = {name: preferences(view) for name, view in outcomes.items()}
    if len(outcomes) > 1:
        first, *_, last = outcomes
        result[last]["against_first"] = shifts(outcomes[first], outcomes[last])
    return result


def trend(data: dict[str, Any], what: str) -> str:
    """Whether the mean preferred options of the last view differ from the first's, over spaces, layers and attributes."""
    found = {space: list(by_view.values())[-1].get("against_first") for space, by_view in data.items()}
    compared = {
        f"{space} {'ABCDEF'[layer]}" + (f" {name.replace('_', ' ')}" if len(by_name) > 1 else ""): difference
        for space, shift in found.items()
        if shift
        for layer, by_name in enumerate(shift["layers"])
        for name, difference in by_name.items()
        if difference
    }
    if not compared:
        return f"There is nothing to compare between the smallest and the largest {what}."
    paired = all(shift["paired"] for shift in found.values() if shift)
    counts = ", ".join(f"{space} {shift['images']}" for space, shift in found.items() if shift)
    how = "paired on the same images" if paired else "on different images, two samples"
    sentence = tell(f"From the smallest to the largest {what}, the mean preferred option", compared, how=how)
    return f"{sentence} Images compared, solvable in both: {counts}."


def table(data: dict[str, list[tuple[str, dict[str, Any]]]]) -> list[list[str]]:
    """Rows under :data:`HEADER`: one for each space, labelled view and attribute."""
    rows = []
    for space, entries in data.items():
        for label, found in entries:
            start = [space, label, str(found["images"]), percent(found["static"]), percent(found["best"])]
            for name in found["layers"][0]:
                means = [layer[name]["mean"] for layer in found["layers"]]
                cell = " · ".join("—" if mean is None else number(mean) for mean in means)
                rows.append([*start, name.replace("_", " "), cell])
    return rows


def option_lines(rows: list[tuple[str, dict[str, list[tuple[float, dict[str, Any]]]]]], *, logarithmic: bool) -> Figure:
    """Mean preferred option of each layer along an axis: a row of panels for each label, a column for each space."""
    spaces = list(rows[0][1])
    figure, grid = grid_of_axes(len(rows), len(spaces), 3.4 * len(spaces) + 0.6, 2.8 * len(rows))
    for line, (label, by_space) in enumerate(rows):
        for column, space in enumerate(spaces):
            axes = grid[line, column]
            points = by_space[space]
            for layer in range(len(points[0][1]["layers"])):
                for name in points[0][1]["layers"][layer]:
                    known = [(x, found["layers"][layer][name]["mean"]) for x, found in points]
                    known = [(x, mean) for x, mean in known if mean is not None]
                    values, errors = with_errors([mean for _, mean in known], percent=False)
                    axes.errorbar(
                        [x for x, _ in known],
                        values,
                        errors,
                        marker="o",
                        markersize=3,
                        elinewidth=0.7,
                        color=LAYER_COLOURS[layer],
                        linestyle=("-", "--", ":")[list(points[0][1]["layers"][layer]).index(name)],
                        label=f"layer {'ABCDEF'[layer]}" + (f", {name}" if len(points[0][1]["layers"][layer]) > 1 else ""),
                    )
            if logarithmic:
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel(label)
            axes.set_title(space, fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean preferred option")
    grid[0, 0].legend(frameon=False, fontsize=7)
    return figure
