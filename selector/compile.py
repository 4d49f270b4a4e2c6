"""Compile a run's portfolio into static graphs, which a server runs without PyTorch.

    python -m selector.compile matched                        # a run that the package ships, float32
    python -m selector.compile runs/mine --precision int8     # after python -m selector.train runs/mine
    SERVING_NETWORK=runs/mine SERVING_PRECISION=int8 bentoml serve

Leaves RUN/compiled/PRECISION: a graph for everything that the run's policies ask, and a report. In float32 every policy
decides on all test images on the compiled and the eager network, and must get the same. In bfloat16 and int8 temperatures,
thresholds and operating points are fitted on label images' answers in that precision (policies/ beside the graphs), and
judged on the test images, beside float32. Started again it says what is there.
"""

from __future__ import annotations

import json

from dynamic.command import run_command
from oracle.reporting.text import aligned
from oracle.runs import Run
from selector.compiling.comparing import table
from selector.compiling.flow import compile_for, reports_beside
from selector.compiling.sentences import sentences
from selector.compiling.settings import CompileSettings


def main(settings: CompileSettings) -> None:
    """Compile, then print the table, what it means and, if asked, the JSON line."""
    place, report, was_there = compile_for(settings)
    reports = reports_beside(Run.open(settings.folder), place, report)
    if reports:
        print(f"\n{report['run']}: {report['test_images']} test images\n")
        print(aligned(*table(reports)), end="\n\n")
    print(*sentences(report, place, was_there, str(settings.run)), sep="\n")
    if settings.json:
        print(json.dumps({"place": str(place), "was_there": was_there} | report))


if __name__ == "__main__":
    run_command(main, CompileSettings, __doc__ or "")
