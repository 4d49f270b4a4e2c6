"""The whole study: opens the sets of outcomes that the parts need, tells how long they take, evaluates what is missing.

Every set of outcomes is a run of its own, in ``RUN/sets/NAME`` (the main one in ``RUN`` itself): evaluated once, resumed
where it was interrupted, shared by all the parts that need it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import xarray as xr

from dynamic.configuration import ATTRIBUTES
from dynamic.errors import UserError
from dynamic.files import write_whole
from oracle.evaluation.collect import Collection, collect, estimate, open_collection, walk_size
from oracle.study import statistics as experiments
from oracle.study.parts import COMPUTE, Study
from oracle.study.plan import LISTS, Planned, parse_parts, plan
from oracle.study.statistics import SpaceOutcomes


def open_study(main: Collection) -> Study:
    """Plan a study and open its sets, before anything is evaluated.

    A set that does not fit (an architecture without the space's default, no memory for it) is left out, and told.

    Raises:
        UserError: an unknown part, options that a study sets itself, or outcomes of another run where a set should be.
    """
    settings = main.settings
    if settings.recalibrate or settings.crop != 1 or settings.resize != 1:
        raise UserError("--study recalibrates, crops and resizes by itself: give it without --recalibrate, --crop, --resize")
    study = Study(settings, main.network, parse_parts(settings.study))
    study.opened["main"], study.seconds["main"] = main, estimate(main)
    for name, item in plan(settings, main.network, main.spaces, study.parts, main.own_network).items():
        same = (item.settings.model, item.settings.weights) == (settings.model, settings.weights)
        try:
            collection = open_collection(item.settings, main.network if same else None, item.splits)
            walk_size(collection, collection.union)
        except UserError as error:
            study.left_out[name] = str(error)
        else:
            study.opened[name], study.seconds[name] = collection, estimate(collection)
    _print_plan(study)
    return study


def run_study(study: Study, outcomes: xr.Dataset) -> dict[str, Any]:
    """Evaluate what is missing, then compute every part.

    Args:
        study: from :func:`open_study`.
        outcomes: the main run's.

    Returns:
        By part, JSON-ready data; under ``sets`` what each set of outcomes was; under ``left_out`` why a set is not there.
    """
    _keep(study, "main", study.opened["main"], outcomes)
    if "table3" in study.parts:
        for name, item in _combined(study).items():
            study.opened[name] = open_collection(item.settings, study.network, item.splits)
    for name, collection in study.opened.items():
        if name != "main":
            print(f"\n{name}", file=sys.stderr)
            _keep(study, name, collection, collect(collection))
    computed = {part: COMPUTE[part](study) for part in study.parts}
    described = {name: _described(data) for name, data in study.outcomes.items()}
    return computed | {"sets": described, "left_out": study.left_out}


def _keep(study: Study, name: str, collection: Collection, outcomes: xr.Dataset) -> None:
    study.outcomes[name], study.spaces[name] = outcomes, collection.spaces
    study.defaults[name] = collection.network.default


def _described(outcomes: xr.Dataset) -> dict[str, Any]:
    kept = ("model", "weights", "weights_digest", "resolution", "space", "regime", "recalibrate", "crop", "resize", "splits")
    return {key: outcomes.attrs[key] for key in kept if key in outcomes.attrs}


def _print_plan(study: Study) -> None:
    """A table of what is to be evaluated and how long it will take, on stderr."""
    lines = []
    for name, collection in study.opened.items():
        seconds = study.seconds[name]
        time = f"{seconds / 60:6.1f} min" if seconds else "      done"
        lines.append(
            f"  {name:<40} {len(collection.source.keys):>7} images {len(collection.union):>7} configurations {time}"
        )
    total = sum(study.seconds.values())
    if "table3" in study.parts:  # its spaces are known once the main run is there
        lines.append(f"  {'combined':<40} {'':>7} about as long as the main run")
        total += study.seconds["main"]
    for name, reason in study.left_out.items():
        lines.append(f"  {name:<40} left out: {reason}")
    print(*["To evaluate for the study:", *lines, f"  about {total / 60:.0f} minutes in all"], sep="\n", file=sys.stderr)


def _combined(study: Study) -> dict[str, Planned]:
    """Table 3's spaces, of the lists that the main run's label split gives; stored as files that ``--space`` takes."""
    by_attribute: dict[str, SpaceOutcomes] = {}
    for name in study.names:
        label = study.of("main", name, "label")
        varied = [a for a in ATTRIBUTES if len({getattr(c, a) for c in label.space}) > 1]
        if len(varied) == 1:
            by_attribute[varied[0]] = label
    folder = study.settings.out / "sets" / "combined"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for attributes in _combinations(list(by_attribute)):
        lists = [experiments.greedy_list(by_attribute[a], LISTS[len(attributes)]) for a in attributes]
        space = experiments.combine("x".join(attributes), lists, study.network.default)
        path = folder / f"{space.name}.json"
        write_whole(path, json.dumps(space.ids).encode())
        files.append(str(path))
    if not files:
        return {}
    settings = replace(study.settings, study="", bounds_only=False, out=folder, space=",".join(files))
    return {"combined": Planned(settings, ("test",))}


def _combinations(attributes: list[str]) -> list[tuple[str, ...]]:
    pairs: list[tuple[str, ...]] = [(a, b) for i, a in enumerate(attributes) for b in attributes[i + 1 :]]
    return [*pairs, tuple(attributes)] if len(attributes) == 3 else pairs
