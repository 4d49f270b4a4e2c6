"""Table 3: combined attributes at equal budget (section 4.4)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dynamic.attributes.registry import attributes
from dynamic.configuration import Configuration, Space, varied
from dynamic.files import write_whole
from oracle.evaluation import bounds
from oracle.evaluation.paired import paired_difference
from oracle.reporting.text import percent
from oracle.study import paper
from oracle.study.outcomes import CASES, SpaceOutcomes, cases
from oracle.study.part import Part, Section, Study
from oracle.study.sentences import tell
from oracle.study.sets import Planned

LISTS = {2: 25, 3: 8}
"""Options lists are so long when two or three attributes are combined: 625 and 512 configurations."""


def greedy_list(label: SpaceOutcomes, size: int) -> list[Configuration]:
    """The greedy portfolio filled up to ``size`` with the most accurate other configurations, on the label split."""
    chosen = bounds.greedy_portfolio(label.correct, label.macs, size)
    order = bounds.cost_order(label.macs)
    ranked = order[np.argsort(-label.correct.sum(axis=0)[order], kind="stable")]
    return [label.space[i] for i in [*chosen, *(int(i) for i in ranked if i not in chosen)][:size]]


def combine(name: str, lists: Sequence[Sequence[Configuration]], default: Configuration) -> Space:
    """All combinations of configurations that vary different attributes, and the default (section 4.4, Table 3)."""
    combined = []
    for parts in itertools.product(*lists):
        options = {
            name: next((c.options(name) for c in parts if c.options(name) != default.options(name)), default.options(name))
            for name in attributes()
        }
        combined.append(Configuration.of(options))
    return Space(name, [*combined, default])


def _needs_later(study: Study) -> dict[str, Planned]:
    """The combined spaces, of the lists that the main run's label split gives; stored as files that ``--space`` takes."""
    by_attribute: dict[str, SpaceOutcomes] = {}
    for name in study.names:
        label = study.of("main", name, "label")
        names = varied(label.space)
        if len(names) == 1:
            by_attribute[names[0]] = label
    folder = study.settings.out / "sets" / "combined"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for chosen in _combinations(list(by_attribute)):
        lists = [greedy_list(by_attribute[name], LISTS[len(chosen)]) for name in chosen]
        space = combine("x".join(chosen), lists, study.network.default)
        path = folder / f"{space.name}.json"
        write_whole(path, json.dumps(space.ids).encode())
        files.append(str(path))
    if not files:
        return {}
    settings = replace(study.settings, study="", bounds_only=False, out=folder, space=",".join(files))
    return {"combined": Planned(settings, ("test",))}


def _combinations(names: list[str]) -> list[tuple[str, ...]]:
    return [chosen for size in LISTS for chosen in itertools.combinations(names, size)]


def _compute(study: Study) -> dict[str, Any]:
    single = {space: study.of("main", space) for space in study.names}
    combined = {}
    if "combined" in study.outcomes:
        combined = {space.name: study.of("combined", space.name) for space in study.spaces["combined"]}
    return {
        "single": {name: cases(found) for name, found in single.items()},
        "combined": {name: cases(found) for name, found in combined.items()},
        "combined_minus_single": {
            ours: {theirs: paired_difference(_best(combined[ours]), _best(single[theirs])) for theirs in single}
            for ours in combined
        },
    }


def _best(outcomes: SpaceOutcomes) -> np.ndarray:
    return bounds.cases(outcomes.quality, outcomes.correct).best


def _written(combination: str) -> str:
    return " × ".join(paper.words(combination))


def is_combining_better(data: dict[str, Any]) -> str:
    """Whether the highest best case of combinations differs from that of single attributes, on the same images.

    The two are picked for being highest, so the correction is for all pairs of a combination and an attribute.
    """
    ours, theirs = (max(data[kind], key=lambda name: data[kind][name]["best"]["value"]) for kind in ("combined", "single"))
    pairs = data["combined_minus_single"]
    family = {f"{_written(a)} against {b}": difference for a, row in pairs.items() for b, difference in row.items()}
    sentence = tell(
        "The best case",
        family,
        up="is higher when attributes are combined,",
        down="is lower when attributes are combined,",
        only=[f"{_written(ours)} against {theirs}"],
    )
    return (
        f"The highest best case of the combinations is {percent(data['combined'][ours]['best'])} % ({_written(ours)}), "
        f"of single attributes {percent(data['single'][theirs]['best'])} % ({theirs}). {sentence}"
    )


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    inferred = False
    for kind, known in (("single", paper.pretrained), ("combined", paper.combined)):
        for space, found in data[kind].items():
            theirs = known(run["model"], space) if paper.is_resnet50(run["model"]) else {}
            guess = space in paper.INFERRED and bool(theirs)
            inferred |= guess
            cell = paper.slashed(theirs, "worst", "median", "best") + ("*" if guess else "")
            name = _written(space) if kind == "combined" else space
            rows.append([name, str(found["configurations"]), *(percent(found[case]) for case in CASES), cell])
    notes = [
        "Lists of 25 (two attributes) or 8 (three) configurations each, chosen greedily on the label split, combined freely."
    ]
    if data["single"] and data["combined"]:
        notes.append(is_combining_better(data))
    if inferred:
        notes.append(
            "* Which attributes these rows of the paper combine is inferred from the table's order: its text names stride × "
            "size for the row with 95.8 %, the check marks of the other two were not in our copy."
        )
    header = ["space", "configurations", *(f"{case}, %" for case in CASES), "paper: worst / median / best, %"]
    return Section(notes, header, rows)


PART = Part(
    name="table3",
    order=30,
    label="Table 3",
    what="combined attributes at equal budget (section 4.4)",
    needs_later=_needs_later,
    compute=_compute,
    describe=_describe,
)
