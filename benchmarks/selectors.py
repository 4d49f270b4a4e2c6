"""Selectors over networks and regimes: before and after fine-tuning, on scales as in training and far beyond.

    python -m benchmarks.selectors --out runs/selectors          # about half an hour on two cores

The same eight stride configurations for every network, chosen by hand for their spread of costs and scales; everything else
as in selector.benchmark. Leaves a run for each cell in OUT, and OUT/selectors.json; prints a Markdown table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamic.command import run_command
from dynamic.files import make_writable, write_whole
from oracle.pipeline import run
from oracle.settings import RunSettings
from selector.learning.training import TrainSettings, train
from selector.scoring.benchmark import BenchmarkSettings, benchmark_run
from selector.scoring.opening import open_run
from selector.scoring.ranking import recommended
from selector.scoring.tables import difference_text, markdown_table

STRIDES = ("1-2-2-2", "1-1-3-2", "1-3-2-2", "1-3-3-3", "2-2-2-1", "2-2-2-2", "2-2-2-3", "3-2-2-3")

NETWORKS: dict[str, dict[str, Any]] = {
    "pre-trained": {},
    "recalibrated": {"recalibrate": 500, "recalibrate_regime": "matched", "keep_default": True},
    "fine-tuned (ROF)": {"weights": "rof-stride", "recalibrate": 500, "recalibrate_regime": "matched"},
    "distilled": {
        "weights": "distillation-efficiency",
        "recalibrate": 500,
        "recalibrate_regime": "matched",
        "keep_default": True,
    },
}
"""Settings of oracle.run by network. ROF's running statistics are a mixture, so its default is re-estimated too."""

POLICIES = "preferred_classifier,correctness,blend,cascade"


@dataclass(frozen=True, kw_only=True)
class SelectorsSettings:
    """What to run."""

    images: int = 2000
    """A split."""
    out: Path = Path("runs/selectors")
    """Folder of the runs."""


def cell(settings: SelectorsSettings, network: str, regime: str) -> dict[str, Any]:
    """Run, train and rank one network in one regime."""
    out = settings.out / f"{network.split()[0]}-{regime}"
    space = settings.out / "eight-strides.json"
    write_whole(space, json.dumps([f"s{strides}_d1-1-1-1_k3-3-3-3" for strides in STRIDES]).encode())
    options: dict[str, Any] = {"space": str(space), "images": settings.images, "regime": regime, "out": out} | NETWORKS[
        network
    ]
    run(RunSettings(**options))
    train(TrainSettings(run=out, policies=POLICIES))
    ranking = BenchmarkSettings(runs=(out,), learning_curve=False, timing=False, outside=False)
    result = benchmark_run(ranking, open_run(out, device=ranking.device))
    kept = (
        "name policy objective learned accuracy gmacs closed_gap closed_gap_ci recovered_gap versus_default above_hull "
        "expected"
    ).split()
    rows = [{key: row[key] for key in kept} for row in result["policies"]]
    labels = result["run"]["label_images"]
    return {"network": network, "regime": regime, "labels": labels, "policies": rows, "control": result["control"]}


HEADER = [
    "network, regime",
    "default",
    "single best (SBS)",
    "oracle (VBS)",
    "preferred-label classifier closes",
    "best by label split closes",
    "for about the default's accuracy",
    "above mixture",
]


def markdown(cells: list[dict[str, Any]]) -> str:
    """One row a cell."""
    rows = []
    for entry in cells:
        by_name = {row["name"]: row for row in entry["policies"]}
        learned = [row for row in entry["policies"] if row["learned"] and row["expected"]]
        run = {"label_images": entry["labels"]}
        best, _ = recommended(learned, "accuracy", by_name["default"], run)
        lean, _ = recommended(learned, "efficiency", by_name["default"], run)
        rows.append(
            [
                f"{entry['network']}, {entry['regime']}",
                *(f"{100 * by_name[name]['accuracy']:.1f} %" for name in ("default", "single_best", "oracle")),
                _closed(by_name["preferred_classifier/accuracy"]),
                f"{_closed(best)} ({best['policy']}, {1000 * best['gmacs']:.1f} MMACs)",
                f"{1000 * lean['gmacs']:.1f} MMACs: {100 * lean['accuracy']:.1f} % ({lean['policy']})",
                difference_text(lean["above_hull"]),
            ]
        )
    return markdown_table(HEADER, rows)


def _closed(row: dict[str, Any]) -> str:
    if row["closed_gap_ci"] is None:
        return "—"
    low, high = (100 * bound for bound in row["closed_gap_ci"])
    return f"{100 * row['closed_gap']:.0f} % [{low:.0f}, {high:.0f}]"


def main(settings: SelectorsSettings) -> None:
    """Run every cell."""
    make_writable(settings.out)
    cells = []
    for regime in ("matched", "wide"):
        for network in NETWORKS:
            print(f"{network}, {regime}")
            cells.append(cell(settings, network, regime))
            write_whole(settings.out / "selectors.json", json.dumps(cells, indent=1).encode())
    print(markdown(cells))


if __name__ == "__main__":
    run_command(main, SelectorsSettings, __doc__ or "")
