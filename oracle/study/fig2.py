"""Fig. 2: how many different classes an image's configurations predict, before and after fine-tuning (section 4.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from oracle.evaluation import bounds
from oracle.evaluation.estimates import share
from oracle.evaluation.paired import paired_difference
from oracle.reporting.figures import row_of_axes
from oracle.reporting.text import percent
from oracle.study import paper
from oracle.study.drawing import METHOD_COLOURS
from oracle.study.outcomes import SpaceOutcomes
from oracle.study.part import Part, Section, Study
from oracle.study.sentences import tell
from oracle.study.tuned import tuned_sets


def agreement(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """How many different classes an image's configurations predict (section 4.2, Fig. 2)."""
    unique = bounds.unique_predictions(outcomes.predicted)
    numbers, counts = np.unique(unique, return_counts=True)
    return {
        "histogram": {str(n): float(c / len(unique)) for n, c in zip(numbers, counts, strict=True)},
        "mean": float(unique.mean()),
        "all_agree": share(unique == 1),
    }


def _compute(study: Study) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for space in study.names:
        by_method = {
            method: study.of(name, space) for method, name in tuned_sets(study, space, "pre-trained", "fine-tuned").items()
        }
        result[space] = {method: agreement(outcomes) for method, outcomes in by_method.items()}
        if "fine-tuned" in by_method:
            before, after = (bounds.unique_predictions(by_method[m].predicted) for m in ("pre-trained", "fine-tuned"))
            result[space]["fine-tuned"]["change"] = paired_difference(after, before)
    return result


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    for space, methods in data.items():
        for method, found in methods.items():
            known = paper.AGREEMENT_AFTER_ROF if method == "fine-tuned" and paper.is_resnet50(run["model"]) else {}
            theirs = f"{known[space]:.0f}" if space in known else "—"
            rows.append([space, method, f"{found['mean']:.2f}", percent(found["all_agree"]), theirs])
    changes = {space: methods["fine-tuned"]["change"] for space, methods in data.items() if "fine-tuned" in methods}
    notes = [tell("With fine-tuning the mean number of different predictions for an image", changes)] if changes else []
    return Section(
        notes, ["space", "network", "different predictions, mean", "all configurations agree, %", "paper, %"], rows
    )


def _draw(data: dict[str, Any]) -> Figure:
    """Different predictions for an image before and after fine-tuning."""
    figure, all_axes = row_of_axes(len(data), 2.8)
    for axes, (space, methods) in zip(all_axes, data.items(), strict=True):
        for offset, (method, found) in enumerate(methods.items()):
            numbers = np.array(list(map(int, found["histogram"])))
            shares = [100 * share for share in found["histogram"].values()]
            axes.bar(numbers + 0.4 * offset - 0.2, shares, width=0.4, color=METHOD_COLOURS[method], label=method)
        axes.set_title(space, fontsize=9)
        axes.set_xlabel("different predictions for an image")
        axes.legend(frameon=False, fontsize=8)
    all_axes[0].set_ylabel("% of images")
    return figure


PART = Part(
    name="fig2",
    order=40,
    label="Fig. 2",
    what="different predictions for an image, before and after fine-tuning (section 4.2)",
    needs=lambda planner: planner.add_tuned(recalibrated=False),
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
