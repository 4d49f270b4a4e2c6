"""A run as an ASlib scenario (Bischl et al., Artificial Intelligence 2016), for other people's selectors.

    python -m selector.aslib runs/mine --out scenarios/mine       # the label split
    python -m selector.aslib runs/mine --split test --out scenarios/mine-test

Instances are images, algorithms are configurations, the performance measure is quality (paper, eq. 1), to be maximised.
"""

from __future__ import annotations

import json

from dynamic.command import run_command
from selector.interchange.aslib import ScenarioSettings, export_run


def main(settings: ScenarioSettings) -> None:
    """Export, then say where it is."""
    observed = export_run(settings)
    instances, algorithms = observed.probabilities.shape[:2]
    print(f"{instances} instances, {algorithms} algorithms: {settings.out}")
    if settings.json:
        print(json.dumps({"out": str(settings.out), "instances": instances, "algorithms": algorithms}))


if __name__ == "__main__":
    run_command(main, ScenarioSettings, __doc__ or "")
