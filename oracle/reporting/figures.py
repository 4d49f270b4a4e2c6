"""The paper's figures from ``summary.json``; every function returns a matplotlib figure."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Curve

from dynamic.configuration import Configuration
from dynamic.files import write_whole

BLUE, GREY, RED = "#2a6fbb", "#8a8a8a", "#c0392b"


def figure_and_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure with one panel, in inches; drawn without pyplot, so that nothing global is touched."""
    figure, grid = grid_of_axes(1, 1, width, height)
    return figure, grid[0, 0]


def grid_of_axes(rows: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure and its panels, an object array of shape (rows, columns).

    Args:
        rows, columns: of panels.
        width, height: of the figure in inches.
        shared: ``sharex`` and ``sharey``, as in matplotlib's ``subplots``.
    """
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def row_of_axes(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """One row of panels with a common vertical axis."""
    figure, grid = grid_of_axes(1, count, 3.2 * count + 0.6, height, sharey=True)
    return figure, list(grid[0])


def save_figure(figure: Figure, path: Path) -> str:
    """Write a figure as ``path``.png and .svg; returns the PNG as a data address for a page."""
    path.parent.mkdir(exist_ok=True)
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same data, the same bytes
            figure.savefig(buffer, format=kind, metadata=metadata)
        write_whole(path.with_name(f"{path.name}.{kind}"), buffer.getvalue())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def preference_flow(space: str, split: dict[str, Any], default: Configuration) -> Figure:
    """Fig. 1: how the preferred options flow from layer to layer; the default's path is black."""
    preferred = split["preferred"]
    options, flow, attributes = preferred["options"], preferred["flow"], preferred["attributes"]
    layers = len(options)
    images = max(sum(preferred["counts"][0].values()), 1)
    figure, axes = figure_and_axes(7.5, 3.8)
    gap = 0.04
    bases: list[dict[str, float]] = []
    for layer in range(layers):
        base = 0.0
        bases.append({})
        for option in options[layer]:
            bases[layer][option] = base
            height = preferred["counts"][layer].get(option, 0) / images
            axes.add_patch(Rectangle((layer - 0.03, base), 0.06, height, color=BLUE))
            axes.text(layer, base + height + 0.004, option.replace("0.5", "½"), ha="center", va="bottom", fontsize=8)
            base += height + gap
    for layer in range(layers - 1):
        left, right = dict(bases[layer]), dict(bases[layer + 1])
        for source, target, count in sorted(
            flow[layer], key=lambda f: (options[layer].index(f[0]), options[layer + 1].index(f[1]))
        ):
            width = count / images
            _ribbon(axes, layer + 0.03, layer + 0.97, left[source], right[target], width)
            left[source] += width
            right[target] += width
    path = ["/".join(f"{default.options(name)[layer]:g}" for name in attributes) for layer in range(layers)]
    heights = [
        bases[i][path[i]] + preferred["counts"][i].get(path[i], 0) / images / 2 for i in range(layers) if path[i] in bases[i]
    ]
    axes.plot(range(len(heights)), heights, color="black", linewidth=2.2, marker="o", markersize=4)
    axes.set_xticks(range(layers), [f"layer {'ABCDEF'[i]}" for i in range(layers)])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.text(layers - 0.94, heights[-1], "default", va="center", fontsize=9)
    axes.set_xlim(-0.15, layers - 0.6)
    what = " / ".join(attributes).replace("_", " ")
    axes.set_title(f"Preferred {what} from layer to layer ({space} space, {images} solvable images)", fontsize=10)
    return figure


def _ribbon(axes: Any, x0: float, x1: float, y0: float, y1: float, width: float) -> None:
    middle = (x0 + x1) / 2
    points = [
        (x0, y0),
        (middle, y0),
        (middle, y1),
        (x1, y1),
        (x1, y1 + width),
        (middle, y1 + width),
        (middle, y0 + width),
        (x0, y0 + width),
        (x0, y0),
    ]
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.CLOSEPOLY]
    axes.add_patch(PathPatch(Curve(points, codes), facecolor=BLUE, alpha=0.22, linewidth=0))


def unique_predictions(spaces: dict[str, Any], split: str) -> Figure:
    """Fig. 2: on how many images the configurations predict 1, 2, ... different classes."""
    figure, all_axes = row_of_axes(len(spaces), 2.8)
    for axes, (name, space) in zip(all_axes, spaces.items(), strict=True):
        histogram = space[split]["unique_predictions"]
        numbers = np.array(list(map(int, histogram)))
        axes.bar(numbers, [100 * share for share in histogram.values()], color=BLUE, width=0.8 if numbers.max() < 40 else 1)
        axes.set_title(f"{name} ({space['configurations']} configurations)", fontsize=9)
        axes.set_xlabel("different predictions for an image")
    all_axes[0].set_ylabel("% of images")
    return figure


def portfolio_curves(spaces: dict[str, Any], split: str) -> Figure:
    """Fig. 3: best case of the greedy portfolio of 1, 2, 4, ... configurations, chosen on the label split."""
    figure, axes = figure_and_axes(6, 3.4)
    for name, space in spaces.items():
        curve = space[split]["portfolio"]
        (line,) = axes.plot([p["size"] for p in curve], [100 * p["accuracy"] for p in curve], marker=".", label=name)
        axes.axhline(100 * space[split]["best"], color=line.get_color(), linewidth=0.8, linestyle=":")
    static = next(iter(spaces.values()))[split]["static"]
    axes.axhline(100 * static, color="black", linewidth=1, label="static")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("configurations in the portfolio (dotted: the whole space)")
    axes.set_ylabel("best case, %")
    axes.legend(frameon=False, fontsize=8)
    return figure


def cost_cloud(spaces: dict[str, Any], split: str) -> Figure:
    """Accuracy against MACs of every configuration run statically, with the default and the oracle."""
    figure, all_axes = row_of_axes(len(spaces), 3.3)
    for axes, (name, space) in zip(all_axes, spaces.items(), strict=True):
        numbers = space[split]
        macs, cloud = numbers["macs"], numbers["static_configurations"]
        points: list[tuple[float, float, dict[str, Any]]] = [
            (macs["default"], numbers["static"], {"marker": "o", "color": "black", "label": "default"}),
            (macs["oracle"], numbers["best"], {"marker": "*", "color": RED, "s": 90, "label": "oracle (highest quality)"}),
            (
                macs["cheapest_correct"],
                numbers["best"],
                {"marker": "v", "color": BLUE, "label": "oracle (cheapest that is right)"},
            ),
        ]
        label = "a configuration, run statically"
        axes.scatter(
            np.array(cloud["macs"]) / 1e6, 100 * np.array(cloud["accuracy"]), s=6, color=GREY, alpha=0.6, label=label
        )
        for cost, accuracy, style in points:
            axes.scatter(cost / 1e6, 100 * accuracy, **({"s": 40} | style))
        axes.set_xlim(0, 1.05 * max(macs["costliest"] / 1e6, 1.5 * macs["default"] / 1e6))
        axes.set_ylim(0, 103)
        axes.set_xlabel("MMACs an image")
        axes.set_title(name, fontsize=9)
    all_axes[0].set_ylabel("accuracy, %")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
