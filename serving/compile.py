"""The graphs that a service runs: python -m serving.compile RUN FOLDER

``bentoml serve`` starts it where a run has none, so that PyTorch stays out of the service's own processes. To compile a run
beforehand, python -m selector.compile RUN is the command.
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


@dataclass(frozen=True, kw_only=True)
class CompileSettings:
    """Which graphs, and where."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the graphs."""
    precision: Precision = "float32"
    """That they compute in."""
    static: bool = False
    """The default configuration alone, with the network's own batch norms."""


def main(settings: CompileSettings) -> None:
    """Make the graphs."""
    run = Run.open(settings.run)
    if settings.static:
        network = run.network.for_inference()
        compile_network(
            network,
            settings.out,
            configurations=(network.default,),
            resolution=run.record.resolution,
            needs=Needs(),
            looks={},
            precision=settings.precision,
        )


if __name__ == "__main__":
    run_command(main, CompileSettings, __doc__ or "")
