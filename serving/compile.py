"""The static default of a run as one graph: python -m serving.compile RUN --out FOLDER

What one would deploy without this project, in the same runtime and precision; ``SERVING_STATIC=true bentoml serve`` starts
it where the graph is missing. A run's portfolio is compiled with python -m selector.compile RUN.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dynamic.command import run_command
from dynamic.compiled.compiling import compile_network
from dynamic.compiled.needs import Needs
from dynamic.compiled.runtimes import Precision
from oracle.runs import Run
from selector.compiling.graphs import calibration_images, refuse_uncompilable


@dataclass(frozen=True, kw_only=True)
class StaticSettings:
    """Which graph, and where."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    out: Path
    """Folder of the graph; what is there is replaced."""
    precision: Precision = "float32"
    """That it computes in; int8 is calibrated on label images."""


def main(settings: StaticSettings) -> None:
    """Make the graph: the network's own batch norms, folded."""
    run = Run.open(settings.run)
    refuse_uncompilable(run)
    network = run.network.for_inference()
    compile_network(
        network,
        settings.out,
        configurations=(network.default,),
        resolution=run.record.resolution,
        needs=Needs(),
        looks={},
        precision=settings.precision,
        calibration=calibration_images(run, None) if settings.precision == "int8" else None,
    )


if __name__ == "__main__":
    run_command(main, StaticSettings, __doc__ or "")
