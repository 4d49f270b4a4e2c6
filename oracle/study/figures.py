"""Figures of the study from its JSON-ready data; every function returns a matplotlib figure."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from oracle.reporting.figures import BLUE, GREY, RED, row_of_axes

_LAYERS = ("#1b4f8a", "#2e9c8f", "#e0a030", "#c0392b", "#7d3c98", "#555555")
_METHODS = {
    "pre-trained": GREY,
    "recalibrated": BLUE,
    "fine-tuned": "#e0a030",
    "fine-tuned, recalibrated": RED,
    "distilled, recalibrated": "#2e9c8f",
}
_CASES = ("static", "worst", "median", "mean", "best")


def fig2(data: dict[str, Any]) -> Figure:
    """Different predictions for an image before and after fine-tuning."""
    figure, all_axes = row_of_axes(len(data), 2.8)
    for axes, (space, methods) in zip(all_axes, data.items(), strict=True):
        for offset, (method, found) in enumerate(methods.items()):
            numbers = np.array(list(map(int, found["histogram"])))
            shares = [100 * share for share in found["histogram"].values()]
            axes.bar(numbers + 0.4 * offset - 0.2, shares, width=0.4, color=_METHODS[method], label=method)
        axes.set_title(space, fontsize=9)
        axes.set_xlabel("different predictions for an image")
        axes.legend(frameon=False, fontsize=8)
    all_axes[0].set_ylabel("% of images")
    return figure


def fig3(data: dict[str, Any]) -> Figure:
    """Best case of greedy portfolios before and after fine-tuning."""
    figure, all_axes = row_of_axes(len(data), 3)
    for axes, (space, methods) in zip(all_axes, data.items(), strict=True):
        for method, found in methods.items():
            sizes = np.arange(1, len(found["accuracy"]) + 1)
            axes.plot(sizes, 100 * np.array(found["accuracy"]), marker=".", color=_METHODS[method], label=method)
            axes.axhline(100 * found["whole_space"], color=_METHODS[method], linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(space, fontsize=9)
        axes.set_xlabel("configurations in the portfolio")
        axes.legend(frameon=False, fontsize=8)
    all_axes[0].set_ylabel("best case, %")
    return figure


def fig4(data: dict[str, Any]) -> Figure:
    """Best case and volatility of every subset of dynamic layers."""
    figure, axes_grid = plt.subplots(
        2, len(data), figsize=(3.4 * len(data) + 0.6, 4.6), layout="constrained", sharey="row", sharex="col", squeeze=False
    )
    for column, (space, rows) in enumerate(data.items()):
        names = [row["layers"] for row in rows]
        for axes, key, colour in zip(axes_grid[:, column], ("best", "volatility"), (BLUE, RED), strict=True):
            values, errors = _with_errors([row[key] for row in rows])
            axes.errorbar(range(len(rows)), values, errors, fmt="o", color=colour, markersize=4, elinewidth=0.8)
            axes.grid(axis="x", alpha=0.25)
        axes_grid[0, column].set_title(space, fontsize=9)
        axes_grid[1, column].set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes_grid[0, 0].set_ylabel("best case, %")
    axes_grid[1, 0].set_ylabel("volatility, %")
    return figure


def fig5(data: dict[str, Any]) -> Figure:
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
    return _option_lines(rows, logarithmic=True)


def fig7(data: dict[str, Any]) -> Figure:
    """Mean preferred option of each layer by crop."""
    series = {
        space: [(224.0 if pixels == "whole view" else float(pixels), found) for pixels, found in crops.items()]
        for space, crops in data.items()
    }
    return _option_lines([("crop, px of 256 (224: the whole view)", series)], logarithmic=False)


def _option_lines(rows: list[tuple[str, dict[str, list[tuple[float, dict[str, Any]]]]]], *, logarithmic: bool) -> Figure:
    spaces = list(rows[0][1])
    figure, grid = plt.subplots(
        len(rows), len(spaces), figsize=(3.4 * len(spaces) + 0.6, 2.8 * len(rows)), layout="constrained", squeeze=False
    )
    for line, (label, by_space) in enumerate(rows):
        for column, space in enumerate(spaces):
            axes = grid[line, column]
            points = by_space[space]
            for layer in range(len(points[0][1]["layers"])):
                for name in points[0][1]["layers"][layer]:
                    known = [(x, found["layers"][layer][name]["mean"]) for x, found in points]
                    known = [(x, mean) for x, mean in known if mean is not None]
                    values, errors = _with_errors([mean for _, mean in known], percent=False)
                    axes.errorbar(
                        [x for x, _ in known],
                        values,
                        errors,
                        marker="o",
                        markersize=3,
                        elinewidth=0.7,
                        color=_LAYERS[layer],
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


def fig6(data: dict[str, Any]) -> Figure:
    """Static configurations in accuracy and MACs, and the cheapest that agree with the default or the best case."""
    figure, all_axes = row_of_axes(len(data), 3.3)
    for axes, (method, found) in zip(all_axes, data.items(), strict=True):
        macs = np.array(found["cloud"]["macs"]) / 1e6
        axes.scatter(
            macs, 100 * np.array(found["cloud"]["accuracy"]), s=3, color=GREY, alpha=0.35, label="one configuration"
        )
        default = found["default_macs"] / 1e6
        axes.scatter(default, 100 * found["static"]["value"], s=45, color="black", label="default", zorder=3)
        for name, marker, colour, label in (
            ("same_as_default", "v", BLUE, "cheapest that predicts as the default does"),
            ("same_as_best", "*", RED, "cheapest that predicts as the best case does"),
        ):
            point = found[name]
            cost = point["macs"]["value"] / 1e6
            axes.scatter(cost, 100 * point["accuracy"]["value"], s=70, marker=marker, color=colour, label=label, zorder=3)
        axes.set_xscale("log")
        axes.set_ylim(0, 103)
        axes.set_xlabel("MMACs an image")
        axes.set_title(method, fontsize=9)
    all_axes[0].set_ylabel("accuracy, %")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def receptive_field(data: dict[str, Any]) -> Figure:
    """Rank correlations of preference with the receptive field."""
    with_sides = any("sides" in found for found in data.values())
    figure, all_axes = plt.subplots(
        1, 1 + with_sides, figsize=(4.4 * (1 + with_sides), 3), layout="constrained", squeeze=False
    )
    panels = [("configurations", ("scalar", "growth"), "quality of a configuration ~ closeness to default")]
    if with_sides:
        layers = tuple(next(iter(data.values()))["sides"])
        panels.append(("sides", layers, "preferred receptive field behind a layer ~ object side"))
    for axes, (key, names, title) in zip(all_axes[0], panels, strict=True):
        for position, found in enumerate(data.values()):
            for i, name in enumerate(names):
                value = found[key][name]
                if value["value"] is None:
                    continue
                (height,), errors = _with_errors([value], percent=False)
                x = position + (i - (len(names) - 1) / 2) * 0.8 / len(names)
                axes.bar(x, height, 0.7 / len(names), color=_LAYERS[i])
                axes.errorbar(x, height, errors, color="black", elinewidth=0.9)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xticks(range(len(data)), list(data))
        axes.set_title(title, fontsize=9)
        handles = [Patch(color=_LAYERS[i], label=name) for i, name in enumerate(names)]
        axes.margins(y=0.2)
        axes.legend(handles=handles, frameon=False, fontsize=8, ncols=len(names), loc="upper right")
    all_axes[0][0].set_ylabel("Spearman's rank correlation")
    return figure


def recalibration(data: dict[str, Any]) -> Figure:
    """Each case before and after recalibration, by regime."""
    columns = max(map(len, data.values()))
    figure, grid = plt.subplots(
        len(data),
        columns,
        figsize=(3.2 * columns + 0.6, 2.2 * len(data)),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    panels = [(f"{space}, {regime}", found) for regime, spaces in data.items() for space, found in spaces.items()]
    for axes, (title, found) in zip(grid.flat, panels, strict=True):
        for height, case in enumerate(_CASES):
            before, after = (_value(found[when][case]) for when in ("before", "after"))
            axes.annotate("", (100 * after, height), (100 * before, height), arrowprops={"arrowstyle": "->", "color": BLUE})
            axes.plot(100 * before, height, "o", color=GREY, markersize=4)
        axes.set_xlim(-3, 103)
        axes.set_yticks(range(len(_CASES)), _CASES)
        axes.set_title(title, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("accuracy, %")
    return figure


def _value(entry: dict[str, Any] | float) -> float:
    return float(entry["value"]) if isinstance(entry, dict) else entry


def _with_errors(entries: list[dict[str, Any]], *, percent: bool = True) -> tuple[list[float], np.ndarray]:
    """Values and the distances to their intervals' ends, (2, n)."""
    scale = 100 if percent else 1
    values = [scale * entry["value"] for entry in entries]
    ends = [entry["interval"] or [entry["value"]] * 2 for entry in entries]
    below = [max(entry["value"] - low, 0) * scale for entry, (low, _) in zip(entries, ends, strict=True)]
    above = [max(high - entry["value"], 0) * scale for entry, (_, high) in zip(entries, ends, strict=True)]
    return values, np.array([below, above])


DRAW = {
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig7": fig7,
    "receptive_field": receptive_field,
    "recalibration": recalibration,
}
