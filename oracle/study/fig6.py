"""Fig. 6: the efficiency bound (section 4.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from oracle.evaluation import bounds
from oracle.evaluation.estimates import resampled, share
from oracle.reporting.figures import BLUE, GREY, RED, row_of_axes
from oracle.reporting.text import number, percent
from oracle.study import paper
from oracle.study.outcomes import SpaceOutcomes
from oracle.study.part import Part, Section, Study, is_small
from oracle.study.tuned import efficiency_outcomes


def efficiency(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """The cheapest configuration of each image that predicts what the default, or the best case, does (section 4.6).

    Images that no configuration gets right run the cheapest of all, and count as wrong.
    """
    order = bounds.cost_order(outcomes.macs)
    rows = np.arange(len(outcomes.correct))
    default = int(outcomes.macs[outcomes.default])
    oracle = bounds.oracle_choice(outcomes.quality, outcomes.correct, outcomes.macs)
    targets = {
        "same_as_default": outcomes.predicted[:, outcomes.default],
        "same_as_best": outcomes.predicted[rows, oracle],
    }
    result: dict[str, Any] = {"default_macs": default, "static": share(outcomes.correct[:, outcomes.default])}
    for name, target in targets.items():
        chosen = order[np.argmax(outcomes.predicted[:, order] == target[:, None], axis=1)]
        macs = outcomes.macs[chosen].astype(float)
        result[name] = {
            "accuracy": share(outcomes.correct[rows, chosen]),
            "macs": resampled(np.mean, macs),
            "times_fewer": resampled(lambda cost: default / np.mean(cost), macs),
        }
    result["cloud"] = {
        "macs": outcomes.macs.tolist(),
        "accuracy": [round(float(value), 5) for value in outcomes.correct.mean(axis=0)],
    }
    result["cheaper_as_good"] = _cheaper_as_good(outcomes)
    return result


def _cheaper_as_good(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """The cheapest static configuration that is at least as accurate on the test split (a bound, not a choice)."""
    accuracy = outcomes.correct.mean(axis=0)
    good = np.flatnonzero(accuracy >= accuracy[outcomes.default])
    position = int(good[np.argmin(outcomes.macs[good])])
    return {"id": outcomes.space[position].id, "macs": int(outcomes.macs[position]), "accuracy": float(accuracy[position])}


def _compute(study: Study) -> dict[str, Any]:
    return {method: efficiency(outcomes) for method, outcomes in efficiency_outcomes(study).items()}


_TARGETS = (("same_as_default", "cheapest as the default"), ("same_as_best", "cheapest as the best case"))


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    papers = paper.is_resnet50(run["model"])
    static = f"{paper.pretrained(run['model'], 'stride')['static']} %" if papers else "—"
    for method, found in data.items():
        first = method == "pre-trained"
        rows.append(
            [method, "static", percent(found["static"]), f"{found['default_macs'] / 1e6:.1f}", "1", static if first else "—"]
        )
        for name, what in _TARGETS:
            point = found[name]
            theirs = f"{paper.EFFICIENCY[name]}×" if first and papers else "—"
            if method == "fine-tuned" and name == "same_as_best" and papers:
                theirs = paper.BEST_AFTER_ROF
            macs = f"{point['macs']['value'] / 1e6:.1f}"
            rows.append(["", what, percent(point["accuracy"]), macs, number(point["times_fewer"], 1), theirs])
    notes = [
        "For each image the cheapest of all configurations that predicts what the default, or the best case, predicts. It "
        "is an oracle's bound: no selector knows either before it has run."
    ]
    if "pre-trained" in data:
        notes.append(times_fewer(data["pre-trained"], papers))
    if is_small(run) and any(found["same_as_best"]["accuracy"]["value"] > 0.98 for found in data.values()):
        notes.append(
            "With ten classes and thousands of configurations that differ in their answers, a cheap one may agree by "
            "chance; how much of both bounds is chance was not measured. The cloud is what single configurations reach."
        )
    return Section(notes, ["network", "each image runs", "accuracy, %", "MMACs", "times fewer", "paper"], rows)


def times_fewer(found: dict[str, Any], papers: bool) -> str:
    """How many times fewer MACs agreeing with the default costs, beside what the paper reports and what is possible."""
    times = found["same_as_default"]["times_fewer"]
    cheapest = found["default_macs"] / min(found["cloud"]["macs"])
    sentence = (
        f"Agreeing with the default costs {number(times, 1)} times fewer MACs; the cheapest configuration of all costs "
        f"{cheapest:.1f} times fewer."
    )
    if not papers:
        return sentence
    above = times["interval"] is not None and times["interval"][0] > 10
    sentence += " The paper reports more than ten times" + (", as here." if above else ".")
    if cheapest <= 10:
        sentence += (
            " No choice can reach that here: what no option changes, the stem and the rest of each stage, is a larger share "
            "of this network at this resolution."
        )
    return sentence


def _draw(data: dict[str, Any]) -> Figure:
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


PART = Part(
    name="fig6",
    order=80,
    label="Fig. 6",
    what="the efficiency bound (section 4.6)",
    needs=lambda planner: planner.add_efficiency(),
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
