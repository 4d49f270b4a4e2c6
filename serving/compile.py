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
from dynamic.compiled.needs import Look, Needs
from dynamic.compiled.runtimes import Precision
from dynamic.configuration import Configuration
from oracle.runs import Run
from selector.observation.features import LOOKS
from selector.policies import load_policies


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
    else:
        policies = {policy.name: policy for policy in load_policies(run)}
        network = run.fast_network()
        portfolio = [Configuration.parse(name) for name in policies["default"].portfolio_]
        ordered = tuple(sorted(portfolio, key=lambda c: network.costs.macs(c, run.record.resolution)))
        looks = [Look(kind="pooled", layer=layer, configuration=c) for layer in range(4) for c in portfolio]
        looks += [Look(kind="gridded", layer=1, configuration=network.default)]
        compile_network(
            network,
            settings.out,
            configurations=portfolio,
            resolution=run.record.resolution,
            needs=Needs(ladders=(ordered,), looks=tuple(looks)),
            looks=LOOKS,
            precision=settings.precision,
        )


if __name__ == "__main__":
    run_command(main, CompileSettings, __doc__ or "")
