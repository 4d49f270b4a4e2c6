"""The whole run: outcomes, labels, summary, report, and the study if asked for."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.lock import held
from dynamic.models import LoadedNetwork, load
from oracle.evaluation.bounds_run import run_bounds
from oracle.evaluation.collect import Collection, collect, open_collection, store_identity
from oracle.evaluation.ray_workers import cluster
from oracle.evaluation.summary import make_labels, summarise, write_labels
from oracle.report import write_bounds_page, write_report
from oracle.runs import Run
from oracle.searched import keep_chosen_on, searched_in
from oracle.settings import RunSettings
from oracle.study.part import Study
from oracle.study.runner import open_study, run_study


def run(settings: RunSettings, network: LoadedNetwork | None = None) -> dict[str, Any]:
    """The whole run; returns what ``summary.json`` holds.

    Args:
        settings: what to run.
        network: run this one, from :func:`dynamic.load`, instead of what ``settings.model`` and ``weights`` name.

    Raises:
        UserError: another process works on the same run, the folder cannot be written, or it belongs to another run.

    >>> import tempfile
    >>> from pathlib import Path
    >>> summary = run(RunSettings(space="stride", images=2, out=Path(tempfile.mkdtemp())))
    >>> summary["spaces"]["stride"]["configurations"]
    361
    """
    with held(settings.out):
        return _run(settings, network)


def _run(settings: RunSettings, network: LoadedNetwork | None) -> dict[str, Any]:
    if network is not None:
        own_weights(network)
    collection = open_collection(settings, network)
    study = open_study(collection) if settings.study else None
    with cluster(settings):
        return _evaluated(collection, study)


def _evaluated(collection: Collection, study: Study | None) -> dict[str, Any]:
    network, folder = collection.network, collection.run
    searched = searched_in(collection.settings.space)
    outcomes = collect(collection)
    keep_chosen_on(folder, searched)
    summary = summarise(outcomes, collection.spaces, network.default)
    for warning in summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    write_labels(make_labels(outcomes, collection.spaces, network.default), folder.labels)
    folder.seal()
    _write(summary, folder)
    if study is not None:
        summary["study"] = run_study(study, outcomes)
        _write(summary, folder)
    return summary


def _write(summary: dict[str, Any], folder: Run) -> None:
    write_report(summary, folder.folder)
    write_whole(folder.summary, json.dumps(summary, indent=1).encode())


def own_weights(network: LoadedNetwork) -> None:
    """Note in ``network.info`` where its weights are no longer those that their name stands for: a run then keeps them."""
    info = network.info
    if info.registered is not None and load(info.name, info.registered, network.dynamic_layers).digest != network.digest:
        network.info = replace(info, registered=None, weights=f"{info.weights}, changed in Python")


def exact_bounds(settings: RunSettings, network: LoadedNetwork | None = None) -> dict[str, Any]:
    """Worst and best case and the cheapest agreeing configurations alone; returns what ``bounds.json`` holds.

    Args:
        settings: what to run.
        network: as for :func:`run`.

    Raises:
        UserError: options that need all outcomes.
    """
    if settings.study or settings.recalibrate:
        raise UserError("--bounds-only skips most outcomes: run it without --study and --recalibrate")
    with held(settings.out):
        if network is not None:
            own_weights(network)
        collection = open_collection(settings, network, ("test",))
        with cluster(settings):
            result = run_bounds(collection)
        write_bounds_page(result, store_identity(collection), settings.out / "bounds.html")
    return result
