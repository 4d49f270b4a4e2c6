"""From a run to a compiled one: graphs, policies for their precision, and a report of what that costs on the test images."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.runtimes import PRECISIONS, open_runtime
from dynamic.errors import UserError
from dynamic.integrity import read_record, write_record
from dynamic.lock import held
from oracle.data.sources import ImageSource
from oracle.runs import Run
from selector.compiling.comparing import joined_runs, rows_of, settings_of
from selector.compiling.equality import Comparison
from selector.compiling.graphs import compile_run, needs_of, portfolio_of_policies, refuse_uncompilable
from selector.compiling.looking import Looker, look_at_all
from selector.compiling.opening import POLICIES, open_graphs, open_policies
from selector.compiling.places import places, writable_place
from selector.compiling.settings import CompileSettings
from selector.learning.training import SMALLEST, fit_all
from selector.observation.costs import Costs
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy
from selector.policies.objectives import TERMS
from selector.policies.running import run_policy
from selector.scoring.ranking import refuse_overlap

REPORT = "report.json"
"""In a folder of graphs: what was measured of them."""


def compile_for(settings: CompileSettings) -> tuple[Path, dict[str, Any], bool]:
    """Compile a run, or find it compiled.

    Returns:
        The folder of the graphs; the report, JSON-ready; and whether both were there already.

    Raises:
        UserError: a run that is not there, has no policies, is in use or cannot be compiled, images that are gone, or a
            precision or runtime that is not to be had here.
    """
    run = Run.open(settings.folder)
    refuse_uncompilable(run)
    open_runtime(settings.precision, settings.runtime)  # before anything is made
    policies = load_policies(run)
    place = _place(settings, run)
    found = _there(settings, run, place)
    if found is not None:
        return place, found, True
    inside = place.resolve().is_relative_to(run.folder.resolve())
    with held(run.folder if inside else place.parent, "name a folder with --out"):
        return place, _made(settings, run, policies, place), False


def _made(settings: CompileSettings, run: Run, policies: list[Policy], place: Path) -> dict[str, Any]:
    """Graphs, policies of their precision and the report, which is returned."""
    began = time.monotonic()
    source = run.images(settings.data_dir) if settings.check else None
    network = _graphs(settings, run, place, source)
    report: dict[str, Any] = {
        "run": run.name,
        "precision": network.precision,
        "runtime": network.runtime,
        "network": asdict(run.digests),
        "policies_digest": digest_of_policies(run.policies),
        "graphs": len(network.record.graphs),
        "limit": settings.images,
        "rows": [],
    }
    if source is not None:
        report |= _measured(settings, run, source, policies, network, place)
    report["seconds"] = round(time.monotonic() - began, 1)
    write_record(place / REPORT, report)
    return report


def reports_beside(run: Run, place: Path, report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The report, and those of the same policies in other precisions on as many test images, by precision."""
    found: dict[str, dict[str, Any]] = {}
    for precision in PRECISIONS:
        other = place.with_name(precision) / REPORT
        content = report if precision == report["precision"] else read_record(other) if other.is_file() else None
        same = ("policies_digest", "network", "test_images")
        if content is not None and all(content.get(name) == report.get(name) for name in same) and content["rows"]:
            found[precision] = content
    return found


def _place(settings: CompileSettings, run: Run) -> Path:
    if settings.out is not None:
        return settings.out
    there = [place for place in places(run, settings.precision) if (place / REPORT).is_file()]
    return there[0] if there else writable_place(run, settings.precision)


def _there(settings: CompileSettings, run: Run, place: Path) -> dict[str, Any] | None:
    """The report in ``place`` where it and the graphs are what is asked for."""
    try:
        network = open_graphs(run, place, settings.runtime)
        report = read_record(place / REPORT)
        open_policies(run, network)
    except UserError:
        return None
    enough = bool(report["rows"]) if settings.check else True
    if network.precision != settings.precision or network.runtime != report["runtime"] or not enough:
        return None
    return report if report["limit"] == settings.images or not settings.check else None


def _graphs(settings: CompileSettings, run: Run, place: Path, source: ImageSource | None) -> CompiledNetwork:
    try:
        network = open_graphs(run, place, settings.runtime)
        if network.precision == settings.precision:
            return network
    except UserError:
        pass
    with tqdm(desc="compiling", unit="graph", file=sys.stderr, mininterval=0.2) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        compile_run(run, place, settings.precision, source=source, progress=progress)
    return open_graphs(run, place, settings.runtime)


def _measured(
    settings: CompileSettings,
    run: Run,
    source: ImageSource,
    policies: list[Policy],
    network: CompiledNetwork,
    place: Path,
) -> dict[str, Any]:
    """What the report says beside facts: rows, and equality in float32."""
    portfolio = portfolio_of_policies(policies)
    costs = Costs(run.network, portfolio, source.resolution)
    looker = Looker(run, source, portfolio, costs)
    test = _rows(source, "test", settings.images)
    if network.precision == "float32":
        return _equal(looker, policies, network, test)
    return _refitted(settings, looker, policies, network, test, place)


def _rows(source: ImageSource, split: str, limit: int | None) -> np.ndarray:
    rows = np.flatnonzero(source.splits == split)[:limit]
    if not len(rows):
        raise UserError(
            f"the run has no {split} images, on which compiled policies are judged: give it images in both splits"
        )
    return rows


def _equal(looker: Looker, policies: list[Policy], network: CompiledNetwork, test: np.ndarray) -> dict[str, Any]:
    """float32: the run's own policies on both networks."""
    eager = looker.run.fast_network()
    settings = settings_of(policies)
    distinct = {(policy.name, dial): (policy, dial) for policy, _, dial in settings}
    comparison = Comparison(settings=list(distinct.values()))
    labels = []
    with _bar("test images", len(test)) as bar:
        for rows, images in looker.batches(test):
            if len(rows):
                observed, probabilities = looker.eagerly(eager, rows, images)
                comparison.add(network, images, observed, probabilities)
                labels.append(observed.labels)
            bar.update(len(rows))
    at = {setting: position for position, setting in enumerate(distinct)}
    order = [at[policy.name, dial] for policy, _, dial in settings]
    made, base = ([joined_runs(runs[position]) for position in order] for runs in (comparison.compiled, comparison.eager))
    rows_made = rows_of(settings, made, base, np.concatenate(labels))
    for row, position in zip(rows_made, order, strict=True):
        row["equality"] = asdict(comparison.equality[position]) | {"holds": comparison.equality[position].holds}
    total = comparison.summary() | {"holds": all(e.holds for e in comparison.equality)}
    return {"test_images": sum(map(len, labels)), "label_images": 0, "rows": rows_made, "equality": total}


def _refitted(
    settings: CompileSettings,
    looker: Looker,
    policies: list[Policy],
    network: CompiledNetwork,
    test: np.ndarray,
    place: Path,
) -> dict[str, Any]:
    """Another precision: the policies fitted anew on its answers about label images, then judged on test images."""
    label = _rows(looker.source, "label", settings.images)
    if len(label) < SMALLEST:
        raise UserError(f"{len(label)} label images are too few to fit policies on: give the run more, or --images more")
    needs = needs_of(policies, looker.portfolio, network.default)

    def compiled(rows: np.ndarray, images: np.ndarray) -> Observations:
        return looker.compiled(network, needs, rows, images)

    with _bar("label images", len(label)) as bar:
        learned_from = look_at_all(looker, label, compiled, bar.update)
    fitted = _fitted(policies, learned_from, place / POLICIES, settings.seed)
    eager, float32, made = looker.run.fast_network(), [], []
    with _bar("test images", len(test)) as bar:
        for rows, images in looker.batches(test):
            if len(rows):
                float32.append(looker.eagerly(eager, rows, images)[0])
                made.append(compiled(rows, images))
            bar.update(len(rows))
    before, after = Observations.joined(float32), Observations.joined(made)
    for policy in [*policies, *fitted]:
        refuse_overlap(policy, after)
    mine, theirs = settings_of(fitted), settings_of(policies)
    outcomes = [run_policy(policy, RecordedImages(after), dial) for policy, _, dial in mine]
    base = [run_policy(policy, RecordedImages(before), dial) for policy, _, dial in theirs]
    return {
        "test_images": len(after),
        "label_images": len(learned_from),
        "rows": rows_of(mine, outcomes, base, after.labels),
        "equality": None,
    }


def _fitted(policies: Sequence[Policy], label: Observations, folder: Path, seed: int) -> list[Policy]:
    """Policies fitted anew, saved all together: half of them are never served."""
    making, before = folder.with_name("policies.new"), folder.with_name("policies.before")
    for left in (making, before):  # of a start that was interrupted
        shutil.rmtree(left, ignore_errors=True)
    terms = policies[0].terms_ or TERMS
    fitted = fit_all([policy.fresh() for policy in policies], label, making, seed, terms)
    if folder.is_dir():
        os.replace(folder, before)
    os.replace(making, folder)
    shutil.rmtree(before, ignore_errors=True)
    return fitted


def _bar(what: str, images: int) -> tqdm[Any]:
    return tqdm(total=images, desc=what, unit="image", file=sys.stderr, mininterval=1)
