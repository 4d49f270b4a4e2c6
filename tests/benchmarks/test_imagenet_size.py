from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.imagenet_size import disk_of
from benchmarks.made_up_run import MadeUpSettings
from dynamic.errors import UserError


@pytest.mark.nightly
def test_every_step_runs_on_a_made_up_run_and_is_measured(tmp_path: Path) -> None:
    out, table = tmp_path / "small", tmp_path / "table.md"
    sizes = "--images 200 --configurations 40 --classes 12 --observed 8 --model resnet50-slim --policies cascade".split()
    command = [sys.executable, "-m", "benchmarks.imagenet_size", *sizes, "--out", str(out), "--table", str(table)]
    done = subprocess.run([*command, "--keep", "--json"], capture_output=True, text=True, check=True)
    (result,) = json.loads(done.stdout.splitlines()[-1])["sizes"]
    steps = {step.pop("step"): step for step in result["steps"]}
    expected = ["make the run", "labels, summary, figures", "portfolio", "train", "benchmark", "the four together"]
    assert list(steps) == expected
    assert all(step["cpu_s"] > 0 and step["peak_gib"] > 0.05 for step in steps.values())
    disk = sum(step["disk_gb"] for step in steps.values() if step is not steps["the four together"])
    assert disk <= disk_of(out) / 1e9 + 1e-9
    assert table.read_text().count("\n| ") == len(expected) + 2
    out = out / "200"
    found = json.loads((out / "run" / "summary.json").read_text())["spaces"]["some"]
    assert found["configurations"] == 40
    test = found["test"]
    assert test["worst"] < test["static"] < test["best"]
    ranked = json.loads((out / "ranked" / "results.json").read_text())["runs"][0]
    assert {"default", "oracle", "cascade/efficiency"} <= {row["name"] for row in ranked["policies"]}
    assert len(ranked["run"]["configurations"]) == 8


def test_sizes_that_cannot_be_made_are_refused() -> None:
    for wrong, message in (
        ({"observed": 40}, "--observed"),
        ({"configurations": 3}, "--configurations"),
        ({"classes": 2}, "--classes"),
        ({"images": 100}, "one a class"),
    ):
        with pytest.raises(UserError, match=message):
            MadeUpSettings(**wrong)  # type: ignore[arg-type]
