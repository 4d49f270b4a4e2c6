"""Try every configuration on every image and say what a perfect chooser would reach.

    python -m oracle.run                                                    # embedded network and data, a few minutes
    python -m oracle.run --space stride-all --regime wide --images 1000 --out runs/wide
    python -m oracle.run --study all                            # every table and figure of the paper, about an hour
    python -m oracle.run --bounds-only                          # exact worst and best case, about a third of the work
    python -m oracle.run --model resnet50 --weights IMAGENET1K_V1 --dataset imagenet --data-dir /data/imagenet --device cuda
    python -m oracle.run --model timm/resnet26 --dynamic-layers layer3.0.conv2,layer4.0.conv2 \\
        --dataset imagefolder --data-dir photos

Leaves outcomes.zarr, labels.parquet, summary.json, report.html and figures/ in --out; a study the outcomes of its other
networks and images in sets/ beside them. A run that was interrupted goes on when the same command is given again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import make_writable, write_whole
from dynamic.models import LoadedNetwork
from oracle.bounds_only import HEADER, bounds_rows, run_bounds
from oracle.collect import collect, open_collection
from oracle.report import aligned, stand_ins, study_text, text_table, write_report
from oracle.settings import RunSettings
from oracle.study import open_study, run_study
from oracle.summary import make_labels, summarise, write_labels


def run(settings: RunSettings, network: LoadedNetwork | None = None) -> dict[str, Any]:
    """The whole run; returns what ``summary.json`` holds.

    Args:
        settings: what to run.
        network: run this one, from :func:`dynamic.load`, instead of what ``settings.model`` and ``weights`` name.

    >>> run(RunSettings(dataset="imagefolder", data_dir=photos, out=out), dynamic.load(my_module, dynamic_layers=["a", "b"]))
    """
    make_writable(settings.out)
    collection = open_collection(settings, network)
    network = collection.network
    study = open_study(collection) if settings.study else None
    outcomes = collect(collection)
    summary = summarise(outcomes, collection.spaces, network.default)
    write_labels(make_labels(outcomes, collection.spaces, network.default), settings.out / "labels.parquet")
    _write(summary, settings.out)
    if study is not None:
        summary["study"] = run_study(study, outcomes)
        _write(summary, settings.out)
    return summary


def _write(summary: dict[str, Any], out: Path) -> None:
    write_report(summary, out)
    write_whole(out / "summary.json", json.dumps(summary, indent=1).encode())


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
    make_writable(settings.out)
    return run_bounds(open_collection(settings, network, ("test",)))


def main(settings: RunSettings) -> None:
    """Run, then print the table and, if asked, the JSON line."""
    if settings.bounds_only:
        result = exact_bounds(settings)
        print(aligned(HEADER, bounds_rows(result)))
        together = f"of all spaces together, which share prefixes, {result['macs_saved']:.1%} saved"
        print(f"\nOn {result['images']} test images; {together}.\nReport: {settings.out / 'bounds.html'}")
        if settings.json:
            print(json.dumps({"out": str(settings.out)} | result))
        return
    summary = run(settings)
    print(*stand_ins(summary["run"]), sep="\n", end="\n\n")
    print(text_table(summary))
    if settings.study:
        print(study_text(summary))
    if summary["unreadable"]["count"]:
        print(f"\n{summary['unreadable']['count']} images could not be read and are left out; summary.json names them.")
    print(f"\nReport: {settings.out / 'report.html'}   labels: {settings.out / 'labels.parquet'}")
    if settings.json:
        print(json.dumps({"out": str(settings.out)} | _headline(summary)))


def _headline(summary: dict[str, Any]) -> dict[str, Any]:
    """The test split's main numbers by space, as one flat object for programs."""
    keys = ("images", "static", "worst", "median", "best", "single_best", "unsolvable_share", "macs")
    return {"spaces": {name: {key: space["test"][key] for key in keys} for name, space in summary["spaces"].items()}}


if __name__ == "__main__":
    run_command(main, RunSettings, __doc__ or "")
