"""Table 1: worst, median and best case of four architectures (section 4.1)."""

from __future__ import annotations

from typing import Any

from oracle.evaluation import bounds
from oracle.evaluation.paired import mcnemar
from oracle.reporting.text import percent
from oracle.study import paper
from oracle.study.outcomes import CASES, SpaceOutcomes, cases
from oracle.study.part import Part, Section, Study, is_small
from oracle.study.sentences import criterion, directions
from oracle.study.sets import Planner, sibling_models


def _needs(planner: Planner) -> None:
    if not planner.own_network:
        for model in sibling_models(planner.settings):
            planner.add(f"architecture-{model}", model=model, dynamic_layers="")


def against_static(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """How far the worst and the best case are from the static network on the same images, with McNemar's p-values."""
    reached, static = bounds.cases(outcomes.quality, outcomes.correct), outcomes.correct[:, outcomes.default]
    return {
        name: {"value": float(right.mean() - static.mean()), "p": mcnemar(right, static)}
        for name, right in (("worst", reached.worst), ("best", reached.best))
    }


def _compute(study: Study) -> dict[str, Any]:
    siblings = {model: f"architecture-{model}" for model in sibling_models(study.settings)}
    sets = study.there({study.settings.model: "main"} | siblings)
    result: dict[str, Any] = {}
    for model, name in sets.items():
        by_space = {space: study.of(name, space) for space in study.names}
        result[model] = {s: cases(found) | {"against_static": against_static(found)} for s, found in by_space.items()}
    return result


def order_of_cases(data: dict[str, Any]) -> str:
    """Whether worst < static < best is shown for every network and space; Holm over all of them together."""
    family = {
        f"{model} {space} ({case})": found["against_static"][case]
        for model, spaces in data.items()
        for space, found in spaces.items()
        for case in ("worst", "best")
    }
    found = directions(family)
    below, above = (
        [name for name in group if name.endswith(end)] for group, end in ((found.down, "(worst)"), (found.up, "(best)"))
    )
    how = f"(paired on the same images, {criterion(len(family))})"
    if len(below) + len(above) == len(family):
        return (
            "As in the paper, for every architecture and attribute the worst case lies below the static network and the "
            f"best case above it {how}."
        )
    rest = ", ".join(name for name in family if name not in below and name not in above)
    return (
        "In the paper every worst case lies below the static network and every best case above it. Not shown here "
        f"{how}: {rest}."
    )


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    for model, spaces in data.items():
        for space, found in spaces.items():
            theirs = paper.slashed(paper.pretrained(model, space), *CASES)
            rows.append([model, f"{space} ({found['configurations']})", *(percent(found[case]) for case in CASES), theirs])
    notes = [order_of_cases(data)]
    high = paper.BEST_CASES[1]
    above = [m for m, spaces in data.items() for found in spaces.values() if 100 * found["best"]["interval"][0] > high]
    if is_small(run) and above:
        notes.append(
            f"Best cases whose intervals lie above the paper's highest of {high} %: {', '.join(dict.fromkeys(above))}. "
            "Presumably since among ten classes a poor configuration is right by luck far more often than among a thousand."
        )
    return Section(notes, ["network", "space", *(f"{case}, %" for case in CASES), "paper, %"], rows)


PART = Part(
    name="table1",
    order=10,
    label="Table 1",
    what="worst, median and best case of four architectures (section 4.1)",
    needs=_needs,
    compute=_compute,
    describe=_describe,
)
