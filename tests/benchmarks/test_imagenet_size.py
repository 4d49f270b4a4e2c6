from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import imagenet_size
from benchmarks.imagenet_size import BenchmarkSettings, disk_of
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


def test_it_goes_on_behind_the_last_step_that_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = {"images": 100, "also": (80,), "configurations": 40, "out": tmp_path / "made"}
    settings = BenchmarkSettings(classes=12, **sizes)
    run: list[str] = []
    fails = {"train of 100"}

    def measured(name: str, arguments: object, counted: Path) -> dict[str, object]:
        run.append(f"{name} of {counted.name}")
        (counted / "run").mkdir(exist_ok=True)
        (counted / "portfolio.json").touch()
        if run[-1] in fails:
            raise UserError("it failed")
        return {"step": name, "wall_s": 2.0, "cpu_s": 1.0, "peak_gib": len(run) / 8, "disk_gb": 0.0}

    monkeypatch.setattr(imagenet_size, "measured", measured)
    with pytest.raises(UserError, match="it failed"):
        imagenet_size.main(settings)
    steps = ["make the run", "labels, summary, figures", "portfolio", "train", "benchmark"]
    assert run == [f"{step} of 80" for step in steps] + [f"{step} of 100" for step in steps[:4]]
    assert [path.name for path in (tmp_path / "made" / "80").iterdir()] == ["steps.json"]
    run.clear()
    fails.clear()
    with pytest.raises(UserError, match="holds something else"):
        imagenet_size.main(BenchmarkSettings(classes=13, **sizes))
    imagenet_size.main(settings)
    assert run == ["train of 100", "benchmark of 100"]
    assert not (tmp_path / "made").exists()
    (tmp_path / "made" / "80").mkdir(parents=True)
    with pytest.raises(UserError, match="holds something else"):
        imagenet_size.main(settings)


def test_sizes_that_cannot_be_made_are_refused() -> None:
    for wrong, message in (
        ({"observed": 40}, "--observed"),
        ({"configurations": 3}, "--configurations"),
        ({"classes": 2}, "--classes"),
        ({"images": 100}, "one a class"),
    ):
        with pytest.raises(UserError, match=message):
            MadeUpSettings(**wrong)  # type: ignore[arg-type]
