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
From here to a service: selector.train learns policies, selector.benchmark ranks them, selector.compile makes static graphs.
"""

from __future__ import annotations

import json
from typing import Any

from dynamic.command import run_command
from oracle.pipeline import exact_bounds, run
from oracle.report import BOUNDS_HEADER as HEADER
from oracle.report import bounds_rows, stand_ins, study_text, text_table
from oracle.reporting.text import aligned
from oracle.settings import RunSettings


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
