"""Table 2: random option fine-tuning, and recalibrated batch norms, which are ours (section 3.4)."""

from __future__ import annotations

from typing import Any

from oracle.reporting.text import percent, points
from oracle.study import paper
from oracle.study.outcomes import CASES, cases, gains
from oracle.study.part import Part, Section, Study
from oracle.study.sentences import tell
from oracle.study.sets import Planner
from oracle.study.tuned import efficiency_outcomes, tuned_sets

_METHODS = ("pre-trained", "recalibrated", "fine-tuned", "fine-tuned, recalibrated")


def _needs(planner: Planner) -> None:
    planner.add_recalibrated("recalibrated")
    planner.add_tuned(recalibrated=True)
    planner.add_efficiency()


def _compute(study: Study) -> dict[str, Any]:
    by_space = {
        space: {method: study.of(name, space) for method, name in tuned_sets(study, space, *_METHODS).items()}
        for space in study.names
    }
    cheap = efficiency_outcomes(study)
    if "pre-trained" in cheap:
        by_space[cheap["pre-trained"].space.name] = cheap
    return {
        space: {m: cases(after) | {"gain": gains(methods["pre-trained"], after)} for m, after in methods.items()}
        for space, methods in by_space.items()
    }


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    model = run["model"]
    rows = []
    for space, methods in data.items():
        for method, found in methods.items():
            gain = found["gain"]
            changes = ["", ""] if method == "pre-trained" else [points(gain["worst"]), points(gain["median"])]
            theirs = {"pre-trained": paper.pretrained, "fine-tuned": paper.fine_tuned}.get(method)
            known = theirs(model, space) if theirs and paper.is_resnet50(model) else {}
            more = paper.fine_tuning_gain(model, space) if method == "fine-tuned" else {}
            gained = f"{more['worst']:+.1f} / {more['median']:+.1f}" if more else ""
            three = paper.slashed(known, "worst", "median", "best")
            rows.append([space, method, *(percent(found[case]) for case in CASES), *changes, three, gained])
    header = ["space", "network", *(f"{case}, %" for case in CASES), "worst, points", "median, points"]
    return Section(_notes(data, model), [*header, "paper: worst / median / best, %", "paper, points"], rows)


def _notes(data: dict[str, Any], model: str) -> list[str]:
    tuned = {space: methods["fine-tuned"]["gain"] for space, methods in data.items() if "fine-tuned" in methods}
    if tuned:
        family = {f"{space} ({case})": gain[case] for space, gain in tuned.items() for case in ("worst", "median")}
        notes = [tell("With random option fine-tuning the accuracy of a case", family)]
        if paper.is_resnet50(model):
            mean = paper.NUMBERS["table2_mean_gain"]
            notes.append(
                f"The paper gains {mean['worst']} points in the worst and {mean['median']} in the median case, on average "
                "over ResNet-50's three attributes."
            )
        flat = [space for space, gain in tuned.items() if gain["worst"]["interval"] and gain["worst"]["interval"][0] <= 0]
        if flat:
            listed = ", ".join(f"{space} ({data[space]['fine-tuned']['configurations']} configurations)" for space in flat)
            notes.append(
                f"The interval of the worst case's gain reaches zero in {listed}: the worst case counts the images on which "
                "every single configuration is right, the poorest included."
            )
    else:
        notes = ["No fine-tuned weights were found for this network: make them with python -m oracle.rof --space SPACE."]
    notes.append(
        "Recalibrated: batch-norm statistics re-estimated for every prefix of options on unlabelled images of the label "
        "split; no learned weight changes and no MACs are added. Distilled: fine-tuned with the default configuration as "
        "teacher, over configurations no costlier than it. Neither is in the paper."
    )
    return notes


PART = Part(
    name="table2",
    order=20,
    label="Table 2",
    what="random option fine-tuning and recalibrated batch norms (section 3.4)",
    needs=_needs,
    compute=_compute,
    describe=_describe,
)
