"""Fig. 3: best case of greedy portfolios, before and after fine-tuning (section 4.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from oracle.evaluation import bounds
from oracle.reporting.figures import row_of_axes
from oracle.study import paper
from oracle.study.drawing import METHOD_COLOURS
from oracle.study.outcomes import SpaceOutcomes
from oracle.study.part import Part, Section, Study
from oracle.study.tuned import tuned_sets

_SIZES = (1, 2, 4, 6, 8, 16, 32)
_PAPER = {"size": 6, "best": 85}
"""Of stride on the pre-trained ResNet-50."""


def portfolio(label: SpaceOutcomes, test: SpaceOutcomes, size: int = 32) -> dict[str, Any]:
    """Best case of the greedy portfolio of 1, 2, ... configurations (section 4.2, Fig. 3)."""
    chosen = bounds.greedy_portfolio(label.correct, label.macs, size)
    return {
        "configurations": [label.space[i].id for i in chosen],
        "accuracy": bounds.portfolio_curve(test.correct, chosen),
        "whole_space": float(test.correct.any(axis=1).mean()),
        "chosen_on": "label",
    }


def _compute(study: Study) -> dict[str, Any]:
    return {
        space: {
            method: portfolio(study.of(name, space, "label"), study.of(name, space))
            for method, name in tuned_sets(study, space, "pre-trained", "fine-tuned").items()
        }
        for space in study.names
    }


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    for space, methods in data.items():
        for method, found in methods.items():
            reached = [found["accuracy"][min(size, len(found["accuracy"])) - 1] for size in _SIZES]
            rows.append([space, method, *(f"{100 * value:.1f}" for value in reached), f"{100 * found['whole_space']:.1f}"])
    eight = [found["accuracy"][:8][-1] for methods in data.values() for found in methods.values()]
    whole = [found["whole_space"] for methods in data.values() for found in methods.values()]
    least = min((part / all_ for part, all_ in zip(eight, whole, strict=True) if all_), default=0.0)
    notes = [
        "Chosen greedily on the label split, reported on the test split. "
        f"Eight configurations reach at least {int(100 * least)} % of the whole space's best case, in every row."
    ]
    if "stride" in data and paper.is_resnet50(run["model"]):
        curve = data["stride"]["pre-trained"]["accuracy"]
        needed = next((size for size, value in enumerate(curve, 1) if 100 * value >= _PAPER["best"]), None)
        ours = f"Here it takes {needed}" if needed else f"Here {len(curve)} do not reach it"
        notes.append(
            f"In the paper {_PAPER['size']} configurations of stride reach a best case of {_PAPER['best']} % without "
            f"fine-tuning. {ours}."
        )
    return Section(notes, ["space", "network", *map(str, _SIZES), "whole space"], rows)


def _draw(data: dict[str, Any]) -> Figure:
    """Best case of greedy portfolios before and after fine-tuning."""
    figure, all_axes = row_of_axes(len(data), 3)
    for axes, (space, methods) in zip(all_axes, data.items(), strict=True):
        for method, found in methods.items():
            sizes = np.arange(1, len(found["accuracy"]) + 1)
            axes.plot(sizes, 100 * np.array(found["accuracy"]), marker=".", color=METHOD_COLOURS[method], label=method)
            axes.axhline(100 * found["whole_space"], color=METHOD_COLOURS[method], linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(space, fontsize=9)
        axes.set_xlabel("configurations in the portfolio")
        axes.legend(frameon=False, fontsize=8)
    all_axes[0].set_ylabel("best case, %")
    return figure


PART = Part(
    name="fig3",
    order=50,
    label="Fig. 3",
    what="portfolios, before and after fine-tuning (section 4.2)",
    needs=lambda planner: planner.add_tuned(recalibrated=False),
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
