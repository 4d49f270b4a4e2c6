"""From a run to a compiled one: graphs, policies for their precision, and a report of what that costs on the test images."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dynamic.compiled.folder import RECORD, CompiledNetwork
from dynamic.compiled.runtimes import PRECISIONS, open_runtime
from dynamic.errors import UserError
from dynamic.integrity import read_record, write_record
from dynamic.lock import held
from oracle.data.sources import ImageSource
from oracle.runs import Run
from selector.compiling.graphs import compile_run, images_of, refuse_uncompilable
from selector.compiling.judging import judged
from selector.compiling.opening import open_graphs, open_policies, policies_folder
from selector.compiling.places import places, writable_place
from selector.compiling.settings import CompileSettings
from selector.compiling.speed import milliseconds
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy

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
    source = images_of(run, settings.data_dir) if settings.check else None
    network = _graphs(settings, run, place, source)
    report: dict[str, Any] = {
        "run": run.name,
        "precision": network.precision,
        "runtime": network.runtime,
        "network": asdict(run.digests),
        "policies_digest": digest_of_policies(run.policies),
        "graphs": len(network.record.graphs),
        "limit": settings.images,
        "seed": settings.seed,
        "rows": [],
    }
    if source is not None:
        report |= judged(settings, run, source, policies, network, place)
    if network.precision != "float32":
        report["milliseconds"] = milliseconds(run, network, places(run, "float32"))
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
        if settings.out.is_dir() and any(settings.out.iterdir()) and not (settings.out / RECORD).is_file():
            raise UserError(f"--out {settings.out} holds something else than graphs: name a folder that is empty or new")
        return settings.out
    there = [place for place in places(run, settings.precision) if (place / REPORT).is_file()]
    return there[0] if there else writable_place(run, settings.precision)


def _there(settings: CompileSettings, run: Run, place: Path) -> dict[str, Any] | None:
    """The report in ``place`` where it and the graphs are what is asked for."""
    try:
        network = open_graphs(run, place, settings.runtime)
        report = read_record(place / REPORT)
        folder = policies_folder(run, network)
        open_policies(run, network)
    except UserError:
        return None
    if network.precision != settings.precision:
        return None
    if not settings.check:
        return report
    asked = {"runtime": network.runtime, "limit": settings.images, "fitted_digest": digest_of_policies(folder)}
    if network.precision != "float32":  # policies of float32 are the run's own
        asked["seed"] = settings.seed
    return report if report["rows"] and all(report.get(name) == value for name, value in asked.items()) else None


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
