"""The benchmark's figures; every function returns a matplotlib figure, and nothing global changes."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from oracle.evaluation.bounds import hull
from oracle.reporting.figures import BLUE, GREY, RED

_COLOURS = [*matplotlib.colormaps["tab10"].colors, *matplotlib.colormaps["Dark2"].colors]  # type: ignore[attr-defined]


def _one_panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel without a frame, in inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def frontier(result: dict[str, Any]) -> Figure:
    """Accuracy against cost: static configurations, mixtures of two, other networks, every policy's dial, the oracle."""
    figure, axes = _one_panel(8.4, 4.4)
    static = result["static"]
    cost, accuracy = 1000 * np.array(static["gmacs"]), 100 * np.array(static["accuracy"])
    corners = hull(cost, accuracy)
    axes.scatter(cost, accuracy, s=14, color=GREY, label="a configuration, run statically")
    label = "a randomised mixture of two of them"
    along = np.linspace(cost[corners].min(), cost[corners].max(), 200)  # straight lines are curves on a scale of ratios
    axes.plot(
        along, np.interp(along, cost[corners], accuracy[corners]), color=GREY, linewidth=1, linestyle="--", label=label
    )
    for number, (name, points) in enumerate(result["curves"].items()):
        curve = np.array(sorted(points))
        axes.plot(
            1000 * curve[:, 0],
            100 * curve[:, 1],
            marker=".",
            markersize=4,
            linewidth=1.2,
            label=name,
            color=_COLOURS[number],
        )
    for row in result["networks"]:
        place = 1000 * row["gmacs"], 100 * row["accuracy"]
        axes.scatter(*place, marker="D", s=22, facecolor="white", edgecolor="black", zorder=7)
        crowded = any(
            1 < other["gmacs"] / row["gmacs"] < 2 and abs(other["accuracy"] - row["accuracy"]) < 0.01
            for other in result["networks"]
        )
        offset, side = ((-6, -3), "right") if crowded else ((6, -3), "left")  # the name of another stands to the right
        named = axes.annotate(row["name"], place, offset, textcoords="offset points", fontsize=7.5, ha=side)
        named.set(path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=6)
    by_name = {row["name"]: row for row in result["policies"]}
    styles: list[tuple[str, dict[str, Any]]] = [
        ("default", {"marker": "o", "color": "black", "s": 40}),
        ("single_best", {"marker": "s", "color": "black", "s": 26}),
        ("oracle", {"marker": "*", "color": RED, "s": 110}),
    ]
    for name, style in styles:
        row = by_name[name]
        axes.scatter(1000 * row["gmacs"], 100 * row["accuracy"], label=name.replace("_", " "), zorder=5, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    reached = [100 * row["accuracy"] for row in (*result["policies"], *result["networks"])]
    axes.set_ylim(max(min(accuracy[corners]) - 3, 0), max(reached) + 2)
    axes.set_xlabel("MMACs an image, the selector's own included")
    axes.set_ylabel("accuracy on the test split, %")
    figure.legend(frameon=False, fontsize=7.5, loc="outside right center")
    return figure


def gaps(result: dict[str, Any]) -> Figure:
    """The share of the gap between single best and oracle that each learned policy closes, with intervals."""
    rows = [row for row in result["policies"] if row["learned"] and row["closed_gap_ci"]]
    figure, axes = _one_panel(6.4, 0.6 + 0.26 * max(len(rows), 1))
    for position, row in enumerate(reversed(rows)):
        low, high = row["closed_gap_ci"]
        axes.plot([100 * low, 100 * high], [position, position], color=BLUE, linewidth=2, alpha=0.5)
        axes.plot(100 * row["closed_gap"], position, marker="o", markersize=4, color=BLUE)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["name"].replace("_", " ") for row in reversed(rows)], fontsize=8)
    axes.set_xlabel("% of the gap from single best to oracle closed (95 % intervals)")
    return figure


def promises(result: dict[str, Any]) -> Figure:
    """What label images guaranteed of every setting against what test images show; below the diagonal it is broken."""
    figure, axes = _one_panel(4.6, 4.2)
    for number, (name, points) in enumerate(result["promises"].items()):
        least, found = 100 * np.array(points).T
        axes.scatter(least, found, s=10, color=_COLOURS[number], label=name.replace("_", " "))
    low, high = (edge(values) for edge, values in zip((min, max), (axes.get_xlim(), axes.get_ylim()), strict=True))
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.fill_between([low, high], [low, high], low, color=RED, alpha=0.08, linewidth=0)
    axes.text(0.98, 0.03, "broken", transform=axes.transAxes, ha="right", color=RED, fontsize=9)
    tolerance = -100 * result["run"]["terms"]["tolerance"]
    axes.axvline(tolerance, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xlabel("points from the default, at least, by label images")
    axes.set_ylabel("points from the default on test images")
    axes.legend(frameon=False, fontsize=7.5, loc="upper left")
    return figure


def learning_curve(result: dict[str, Any]) -> Figure:
    """Closed gap against the number of label images."""
    figure, axes = _one_panel(5.4, 3.2)
    rows = result["learning_curve"]
    for number, name in enumerate(dict.fromkeys(row["policy"] for row in rows)):
        points = [row for row in rows if row["policy"] == name and row["closed_gap_ci"]]
        sizes = [row["images"] for row in points]
        axes.plot(sizes, [100 * row["closed_gap"] for row in points], marker=".", label=name, color=_COLOURS[number])
        low, high = ([100 * row["closed_gap_ci"][side] for row in points] for side in (0, 1))
        axes.fill_between(sizes, low, high, color=_COLOURS[number], alpha=0.12, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("label images")
    axes.set_ylabel("% of the gap closed")
    axes.legend(frameon=False, fontsize=8)
    return figure


def by_side(result: dict[str, Any]) -> Figure:
    """Accuracy by the object's true side."""
    bins = result["by_side"]
    figure, axes = _one_panel(5.8, 3.2)
    names = [f"{entry['sides'][0]:.0f}-{entry['sides'][1]:.0f}" for entry in bins]
    wanted = {"default": "black", "oracle": RED}
    best = [row for row in result["policies"] if row["learned"] and row["objective"] == "accuracy"]
    if best:
        wanted[max(best, key=lambda row: row["expected"]["accuracy"])["name"]] = BLUE
    for name, colour in wanted.items():
        shares = [100 * entry["accuracy"][name] for entry in bins]
        axes.plot(names, shares, marker="o", markersize=4, color=colour, label=name.replace("_", " "))
    axes.set_xlabel("true object side, pixels (bins of equally many test images)")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, fontsize=8)
    return figure
