"""A run as an ASlib scenario (Bischl et al., Artificial Intelligence 2016), for other people's selectors.

    python -m selector.aslib runs/mine --out scenarios/mine       # the label split
    python -m selector.aslib runs/mine --split test --out scenarios/mine-test

Instances are images, algorithms are configurations, the performance measure is quality (paper, eq. 1), to be maximised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dynamic.command import run_command
from dynamic.files import make_writable
from oracle.runs import Run
from selector.interchange.aslib import export
from selector.scoring.opening import observe_split


@dataclass(frozen=True, kw_only=True)
class ScenarioSettings:
    """What to export."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of an oracle run."""
    split: Literal["label", "test"] = "label"
    """Which images: those to learn from, or those to score on."""
    portfolio: int = 16
    """Configurations, if the run has more than 32."""
    data_dir: Path | None = None
    """Where the run's images are now, if they were moved."""
    out: Path = Path("runs/aslib")
    """Folder of the scenario."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def main(settings: ScenarioSettings) -> None:
    """Export, then say where it is."""
    make_writable(settings.out)
    observed = observe_split(settings.run, settings.split, settings.portfolio, settings.data_dir, settings.out)
    export(observed, f"{Run(settings.run).name}-{settings.split}", settings.out)
    instances, algorithms = observed.probabilities.shape[:2]
    print(f"{instances} instances, {algorithms} algorithms: {settings.out}")
    if settings.json:
        print(json.dumps({"out": str(settings.out), "instances": instances, "algorithms": algorithms}))


if __name__ == "__main__":
    run_command(main, ScenarioSettings, __doc__ or "")
