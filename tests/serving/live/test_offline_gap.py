from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dynamic.integrity import read_record, write_record
from oracle.runs import Run
from selector.shipped import SHIPPED
from serving.inference.deployment import Deployment
from serving.inference.opening import open_deployment
from serving.live.offline_gap import offline_gap
from serving.settings import ServingSettings


def as_own_run(shipped: Path, folder: Path) -> Path:
    """A shipped run as a user's."""
    return Path(shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("compiled", ".lock")))


@pytest.mark.parametrize("name", list(SHIPPED))
def test_the_gap_of_every_shipped_run_is_what_its_benchmark_measured(name: str) -> None:
    deployment = open_deployment(ServingSettings(network=name, device="cpu", runtime="torch"))
    gap = offline_gap(deployment)
    folder = SHIPPED[name]
    rows = {row["name"]: row for row in json.loads(Run(folder).results.read_text())["policies"]}
    assert gap["available"]
    for who, row in {
        "default": "default",
        "single_best": "single_best",
        "oracle": "oracle",
        "active": {"wide": "head/efficiency", "matched": "cascade/efficiency"}[name],
    }.items():
        assert gap[who]["accuracy"] == rows[row]["accuracy"]
        assert gap[who]["gmacs"] == rows[row]["gmacs"]
        assert gap[who]["closed_gap_ci"] == rows[row]["closed_gap_ci"]
    assert len(gap["curves"]["cascade"]) > 5


def test_the_default_service_keeps_its_point_of_tolerance_at_less_than_half_of_its_defaults_cost(
    deployment: Deployment,
) -> None:
    gap = offline_gap(deployment)
    accuracy, gmacs = gap["default"]["accuracy"], gap["default"]["gmacs"]
    assert gap["active"]["accuracy"] > accuracy - 0.005
    assert gap["active"]["gmacs"] < 0.45 * gmacs
    near = [point["gmacs"] for point in gap["curves"]["cascade"] if point["accuracy"] > accuracy - 0.005]
    assert min(near) < 0.4 * gmacs, "nor is there a setting within half a point at two fifths of the cost"


def test_a_users_run_is_served_from_its_folder(tmp_path: Path) -> None:
    folder = as_own_run(SHIPPED["matched"], tmp_path / "mine")
    deployment = open_deployment(ServingSettings(network=str(folder), device="cpu", runtime="torch", policy="correctness"))
    assert deployment.name == "mine"
    assert offline_gap(deployment)["active"]["policy"] == "correctness"


def test_results_of_policies_that_were_trained_again_are_not_shown(tmp_path: Path) -> None:
    folder = as_own_run(SHIPPED["matched"], tmp_path / "mine")
    policy = Run(folder).policies / "default"
    write_record(policy / "policy.json", read_record(policy / "policy.json") | {"points": []})
    gap = offline_gap(open_deployment(ServingSettings(network=str(folder), device="cpu", runtime="torch")))
    assert not gap["available"]
    assert "fitted again" in gap["reason"]


def test_a_run_that_was_not_benchmarked_says_how(tmp_path: Path) -> None:
    folder = as_own_run(SHIPPED["matched"], tmp_path / "mine")
    Run(folder).results.unlink()
    gap = offline_gap(open_deployment(ServingSettings(network=str(folder), device="cpu", runtime="torch")))
    assert "python -m selector.benchmark" in gap["reason"]
