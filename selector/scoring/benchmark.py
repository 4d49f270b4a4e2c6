"""The benchmark: every policy of a run on its test split, once; its results as JSON and as a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from dynamic.command import check_device
from dynamic.errors import UserError
from dynamic.files import make_writable, write_whole
from dynamic.integrity import write_record
from dynamic.lock import held
from oracle.evaluation.ray_workers import cluster
from oracle.ray_settings import RaySettings
from oracle.runs import Run
from selector.interchange.asf import AsfPairwise, available
from selector.scoring.by_side import by_side
from selector.scoring.controls import shuffled_control
from selector.scoring.curves import areas, dial_curves, static_points
from selector.scoring.learning_curve import learning_curve
from selector.scoring.opening import OpenedRun, facts_of, open_run, stopwatch_for, written_to
from selector.scoring.promises import promises
from selector.scoring.ranking import rank
from selector.scoring.reached import reached_by, record_of
from selector.scoring.report import write_report
from selector.scoring.rivals import against_networks
from selector.scoring.sentences import sentences
from selector.scoring.shifted import shifted_test
from selector.scoring.timing import Stopwatch, time_rows
from selector.shipped import SHIPPED


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(RaySettings):
    """What to rank."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of oracle runs that selector.train learned from, or names of shipped ones; what the repository ships unless
    given."""
    shifted: Path | None = None
    """Another run of the same network and configurations: its test images are unlike those the policies learned from."""
    rivals: tuple[Path, ...] = ()
    """Runs of other networks on the same images, such as a smaller one: each stands beside the policies as what it is
    statically. They are remembered: later benchmarks of the run show them without being told."""
    data_dir: Path | None = None
    """Where the runs' images are now, if they were moved."""
    learning_curve: bool = True
    """Refit some policies on fewer label images."""
    outside: bool = True
    """Compare with asf-lib's selector, if it is installed."""
    timing: bool = True
    """Measure milliseconds on the running network: on its compiled graphs, which are made where there are none, and in
    PyTorch where a run cannot be compiled or another device than the CPU is named."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""
    out: Path = Path("runs/selector")
    """Folder of the report."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        for option, given in (("--shifted", self.shifted is not None), ("--rivals", bool(self.rivals))):
            if given and len(self.runs) != 1:
                raise UserError(f"{option} goes with one run: name it")

    @property
    def folders(self) -> list[Path]:
        """Of the runs."""
        return [SHIPPED.get(str(run), run) for run in self.runs] or [*SHIPPED.values()]


def benchmark(settings: BenchmarkSettings, stopwatch: Callable[[OpenedRun], Stopwatch] = stopwatch_for) -> dict[str, Any]:
    """Rank the policies of each run, write the report, and return what ``results.json`` holds.

    Args:
        settings: what to rank.
        stopwatch: that milliseconds are taken by, if they are.

    Raises:
        UserError: a run, its policies or its images are missing or do not fit, or another process works on the run.
    """
    make_writable(settings.out)
    names = [Run(path).name for path in settings.folders]
    if len(set(names)) < len(names):
        raise UserError(f"runs of one name ({', '.join(names)}) would overwrite each other: rank one at a time")
    results = []
    for path in settings.folders:
        print(f"{path.name}:", file=sys.stderr)
        elsewhere = settings.out / path.resolve().name
        with held(written_to(Run.open(path), elsewhere).folder):
            with cluster(settings):
                opened = open_run(
                    path,
                    device=settings.device,
                    elsewhere=elsewhere,
                    data_dir=settings.data_dir,
                    shifted=settings.shifted,
                    rivals=settings.rivals,
                    ray=settings,
                )
            result = benchmark_run(settings, opened, stopwatch)
            opened.folder.benchmark.mkdir(parents=True, exist_ok=True)
            write_record(opened.folder.results, result)
            write_record(opened.folder.reached, record_of(reached_by(opened.policies, opened.runs), opened.policies_digest))
        results.append(result)
    write_report(results, settings.out)
    write_whole(settings.out / "results.json", json.dumps({"runs": results}, indent=1).encode())
    return {"runs": results}


def benchmark_run(
    settings: BenchmarkSettings, opened: OpenedRun, stopwatch: Callable[[OpenedRun], Stopwatch] = stopwatch_for
) -> dict[str, Any]:
    """Everything about one run, JSON-ready."""
    label, test, policies = opened.label, opened.test, opened.policies
    outside = [AsfPairwise().fit(label)] if settings.outside and available() else []
    ranking = rank([*policies, *outside], label, opened.runs, opened.networks)
    notes = []
    if settings.outside and not outside:
        notes.append("asf-lib is not installed, so its row is missing: pip install -e '.[compare]'")
    timed: dict[str, Any] = {"static_network_milliseconds": None, "timed_in": None}
    if settings.timing:
        clock = stopwatch(opened)
        time_rows(clock, ranking.rows, policies)
        timed = {"static_network_milliseconds": clock.static_milliseconds(), "timed_in": clock.engine}
    curves = dial_curves(policies, opened.runs)
    result = {
        "run": facts_of(opened.run, policies, label, test),
        "policies": ranking.rows,
        "static": static_points(test),
        "networks": against_networks(opened.networks, policies, label, opened.runs, ranking.references),
        "curves": curves,
        "area": areas(curves, test),
        "promises": promises(policies, curves, float(test.correct[:, test.default].mean())),
        "by_side": by_side(ranking, test),
        "control": shuffled_control(label, test, ranking.references),
        "learning_curve": learning_curve(policies, label, test, ranking.references) if settings.learning_curve else [],
        "shifted": shifted_test(opened.shifted[0], policies, label, opened.shifted[1]) if opened.shifted else None,
        "notes": notes,
        **timed,
        "network": asdict(opened.run.digests),
        "policies_digest": opened.policies_digest,
        "images": opened.run.record.images["images"],
    }
    return result | {"verdicts": sentences(result)}
