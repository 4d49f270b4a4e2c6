"""Everything that follows the evaluation, at ImageNet's size without ImageNet: time, memory and disk of each step.

    python -m benchmarks.imagenet_size                  # 50,000 images, 1,609 configurations, 1,000 classes
    python -m benchmarks.imagenet_size --images 5000    # a tenth of them
    python -m benchmarks.imagenet_size --also 5000 15000 --table docs/imagenet-size.md

Makes a run with made-up outcomes and observations in the real formats (:mod:`benchmarks.made_up_run`), then runs the real
commands on it, each in a process of its own: labels, summary and figures (``oracle.run`` on a run that is evaluated),
``selector.portfolio``, ``selector.train`` and ``selector.benchmark``. Peak memory is the largest resident set that the
process ever had. The benchmark leaves out what does not grow with the images (milliseconds on the running network) and what
is not ours (asf-lib's selector). It takes long: started again with the same ``--out``, it goes on behind the last step that
ended.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.made_up_run import MadeUpSettings, run_settings
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.resources import cpu_count
from oracle.reporting.text import aligned, markdown_table

MADE = ("images", "configurations", "classes", "observed", "model", "seed", "out")
"""Options of benchmarks.made_up_run."""

ASKED = ("model", "weights", "dataset", "data_dir", "space", "out", "device")
"""Options of oracle.run."""

ENDED = "steps.json"
"""In the folder of a size: what it is of, and the rows of the steps that ended."""

HEADER = ["step", "wall s", "CPU s", "peak GiB", "disk GB"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(MadeUpSettings):
    """How large, and what to keep."""

    policies: str = ""
    """Learned policies; all unless given."""
    also: tuple[int, ...] = ()
    """Smaller numbers of images that are measured first, to show growth."""
    table: Path | None = None
    """Also write the tables to this file, as Markdown."""
    keep: bool = False
    """Leave the folder that everything was made in; else it is deleted once all steps have ended."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def measured(name: str, arguments: Sequence[str], counted: Path) -> dict[str, Any]:
    """Run a command in a process of its own; raises UserError where it fails.

    Args:
        name: of the step.
        arguments: the module and its arguments.
        counted: folder whose growth is the step's disk.
    """
    before, began = disk_of(counted), time.perf_counter()
    print(f"{name} ...", file=sys.stderr)
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"the step {name!r} failed with exit code {process.returncode}: what it said stands above")
    row = {
        "step": name,
        "wall_s": time.perf_counter() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss / 2**20,
        "disk_gb": (disk_of(counted) - before) / 1e9,
    }
    print(f"{name}: {', '.join(map(' '.join, zip(_cells(row)[1:], HEADER[1:], strict=True)))}", file=sys.stderr, flush=True)
    return row


def disk_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(settings: BenchmarkSettings) -> None:
    """For each size make the run and run every step; print the table."""
    results = []
    for images in (*settings.also, settings.images):
        sized = replace(settings, images=images, out=settings.out / str(images))
        rows = run_steps(sized)
        if not settings.keep:  # one size at a time on the disk
            _empty(sized.out)
        results.append(_sizes(sized) | {"steps": rows})
        print(f"\n{_title(sized)}\n\n{aligned(HEADER, [_cells(row) for row in rows])}", flush=True)
        if settings.table is not None:
            write_whole(settings.table, _page(settings, results).encode())
    if not settings.keep:
        shutil.rmtree(settings.out)
    if settings.json:
        print(json.dumps({"sizes": results}))


def _empty(folder: Path) -> None:
    """Leave the rows alone, in case that a later size is interrupted."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ENDED:
            path.unlink()


def _sizes(settings: BenchmarkSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("images", "configurations", "classes", "observed", "model")}


def _title(settings: BenchmarkSettings) -> str:
    return f"{settings.images:,} images, {settings.configurations:,} configurations, {settings.classes:,} classes"


def _page(settings: BenchmarkSettings, results: Sequence[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    parts = [f"# ImageNet's size without ImageNet\n\nMade by `python -m benchmarks.imagenet_size` on {cpu_count()} cores.\n"]
    for result in results:
        title = _title(replace(settings, images=result["images"]))
        parts.append(f"## {title}\n\n{markdown_table(HEADER, [_cells(row) for row in result['steps']])}\n")
    return "\n".join(parts)


def run_steps(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """A row for each step, and one for all but the making. Steps that ended before are not run again.

    Raises:
        UserError: a step fails, or the folder holds something else.
    """
    out, run = settings.out, settings.out / "run"
    rows = _ended(settings)
    asked, observed = run_settings(out, settings.model), str(settings.observed)
    evaluated = [f"--{name.replace('_', '-')}={getattr(asked, name)}" for name in ASKED]
    steps: dict[str, list[object]] = {
        "make the run": ["benchmarks.made_up_run", *(f"--{name}={getattr(settings, name)}" for name in MADE)],
        "labels, summary, figures": ["oracle.run", *evaluated],
        "portfolio": ["selector.portfolio", run, "--size", observed, "--out", out / "portfolio.json"],
        "train": ["selector.train", run, "--portfolio", observed, f"--policies={settings.policies}", "--device=cpu"],
        "benchmark": ["selector.benchmark", run, "--no-timing", "--no-outside", "--device=cpu", "--out", out / "ranked"],
    }
    for name, arguments in list(steps.items())[len(rows) :]:
        rows.append(measured(name, [str(argument) for argument in arguments], out))
        write_whole(out / ENDED, json.dumps(_asked(settings) | {"steps": rows}).encode())
    together = {key: sum(row[key] for row in rows[1:]) for key in ("wall_s", "cpu_s", "disk_gb")}
    return [*rows, {"step": "the four together", "peak_gib": max(row["peak_gib"] for row in rows[1:])} | together]


def _asked(settings: BenchmarkSettings) -> dict[str, Any]:
    """What rows depend on."""
    return _sizes(settings) | {"seed": settings.seed, "policies": settings.policies}


def _ended(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """Rows of the steps that ended before; makes the folder where there is none."""
    record = settings.out / ENDED
    if not settings.out.exists():
        settings.out.mkdir(parents=True)
        write_whole(record, json.dumps(_asked(settings) | {"steps": []}).encode())
    found = json.loads(record.read_text()) if record.exists() else {}
    if found != _asked(settings) | {"steps": found.get("steps")}:
        raise UserError(f"{settings.out} holds something else: delete it or choose another --out")
    rows: list[dict[str, Any]] = found["steps"]
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    return [row["step"], f"{row['wall_s']:.0f}", f"{row['cpu_s']:.0f}", f"{row['peak_gib']:.2f}", f"{row['disk_gb']:.2f}"]


if __name__ == "__main__":
    run_command(main, BenchmarkSettings, __doc__ or "")
