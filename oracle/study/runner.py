"""The whole study: opens the sets of outcomes that the parts need, says how long they take, evaluates what is missing.

Every set of outcomes is a run of its own, in ``RUN/sets/NAME`` (the main one in ``RUN`` itself): evaluated once, resumed
where it was interrupted, shared by all the parts that need it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import xarray as xr

from dynamic.configuration import Space
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork
from oracle.evaluation.collect import Collection, collect, collect_all, estimate, open_collection, walk_size
from oracle.settings import RunSettings
from oracle.study.part import Study
from oracle.study.registry import parse_parts, parts
from oracle.study.sets import Planned, Planner


class NotApplicable(Exception):  # noqa: N818 - no error: the study goes on without the set
    """A set that cannot be had here although nobody made a mistake; the text says why."""


def plan(
    settings: RunSettings, network: LoadedNetwork, spaces: Sequence[Space], names: Sequence[str], own_network: bool = False
) -> Planner:
    """What some parts need beside the main run, before anything is evaluated.

    Args:
        settings, network, spaces: of the main run.
        names: of the parts.
        own_network: the network was given in Python: no other architectures or fine-tuned weights go with it.

    Raises:
        UserError: fine-tuned weights that cannot be read.
    """
    planner = Planner(settings, network, spaces, own_network)
    known = parts()
    for name in names:
        known[name].needs(planner)
    return planner


def open_study(main: Collection) -> Study:
    """Plan a study and open its sets, before anything is evaluated.

    A set that does not apply (an architecture that the spaces or weights are not for, too little memory) is left out, and
    named in the report.

    Raises:
        UserError: an unknown part, options that a study sets itself, outcomes of another run where a set should be, or
            whatever is wrong with the settings of a set.
    """
    settings = main.settings
    if settings.recalibrate or settings.crop != 1 or settings.resize != 1:
        raise UserError("--study recalibrates, crops and resizes by itself: give it without --recalibrate, --crop, --resize")
    study = Study(settings, main.network, parse_parts(settings.study))
    study.opened["main"], study.seconds["main"] = main, estimate(main)
    planner = plan(settings, main.network, main.spaces, study.parts, main.own_network)
    study.left_out |= planner.left_out
    for name, item in planner.planned.items():
        _open(study, name, item)
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
    known = parts()
    _keep(study, "main", study.opened["main"], outcomes)
    for part in study.parts:
        for name, item in known[part].needs_later(study).items():
            _open(study, name, item)
    others = {name: collection for name, collection in study.opened.items() if name != "main"}
    if study.settings.ray:  # all at once, so that no worker waits for the last region of a set
        print(f"\n{', '.join(others)}", file=sys.stderr)
        for (name, collection), found in zip(others.items(), collect_all([*others.values()]), strict=True):
            _keep(study, name, collection, found)
    else:
        for name, collection in others.items():
            print(f"\n{name}", file=sys.stderr)
            _keep(study, name, collection, collect(collection))
    computed = {part: known[part].compute(study) for part in study.parts}
    described = {name: _described(data) for name, data in study.outcomes.items()}
    return computed | {"sets": described, "left_out": study.left_out}


def _open(study: Study, name: str, item: Planned) -> None:
    """Open a set, or note why it is left out."""
    try:
        study.opened[name] = _opened(study, item)
    except NotApplicable as reason:
        study.left_out[name] = str(reason)
    else:
        study.seconds[name] = estimate(study.opened[name])


def _opened(study: Study, item: Planned) -> Collection:
    sibling = item.settings.model != study.settings.model
    same = not sibling and item.settings.weights == study.settings.weights
    try:
        collection = open_collection(item.settings, study.network if same else None, item.splits)
    except UserError as error:
        if sibling:  # the spaces and weights were right for the network that they were given for
            raise NotApplicable(str(error)) from error
        raise
    try:
        walk_size(collection, collection.union)
    except UserError as error:  # it has one reason: not even one image fits the memory
        raise NotApplicable(str(error)) from error
    return collection


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
