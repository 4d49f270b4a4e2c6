"""Rank policies on the test split: accuracy, cost with the selector's own, and the share of the gap to the oracle closed.

    python -m selector.benchmark                      # what the repository ships, two minutes
    python -m selector.benchmark runs/mine            # after python -m selector.train runs/mine
    python -m selector.benchmark runs/matched --shifted runs/wide       # also on images unlike those learned from

Everything that is chosen (single best, dials, ladders) was chosen on the label split; the test split is used once, here. A
policy that was fitted on an image of the test split is refused.

Leaves report.html, results.json, results.md and figures in OUT, and each run's own results in RUN/benchmark/results.json,
which the service reports.
"""

from __future__ import annotations

import json
from typing import Any

from dynamic.command import run_command
from oracle.reporting.text import aligned
from selector.compiling.timing import size_pool, stopwatch_on_graphs
from selector.scoring.benchmark import BenchmarkSettings, benchmark
from selector.scoring.tables import HEADER, table_rows


def main(settings: BenchmarkSettings) -> None:
    """Rank, print the tables and, if asked, the JSON line."""
    size_pool()
    results = benchmark(settings, stopwatch_on_graphs)["runs"]
    for result in results:
        facts = result["run"]
        print(f"\n{facts['name']}: {facts['test_images']} test images, {len(facts['configurations'])} configurations\n")
        print(aligned(HEADER, table_rows(result)))
        print(*result["verdicts"], *result["notes"], sep="\n")
    print(f"\nReport: {settings.out / 'report.html'}")
    if settings.json:
        first = {key: results[0][key] for key in ("policies", "control", "area", "static_network_milliseconds")}
        print(json.dumps({"run": results[0]["run"]["name"]} | first | {"runs": [_line(result) for result in results]}))


def _line(result: dict[str, Any]) -> dict[str, Any]:
    """What the JSON line says of each run."""
    return {"name": result["run"]["name"], "policies": result["policies"], "verdicts": result["verdicts"]}


if __name__ == "__main__":
    run_command(main, BenchmarkSettings, __doc__ or "")
