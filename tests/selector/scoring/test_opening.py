"""Two small real runs: a ranking on the test split of one, and on images of the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamic import UserError
from oracle.pipeline import run
from oracle.settings import RunSettings
from selector.learning.training import TrainSettings, train
from selector.scoring.benchmark import BenchmarkSettings, benchmark
from selector.scoring.opening import observe_split, open_run
from tests.oracle.conftest import all_bytes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``matched`` with a policy, ``wide`` and ``other``, which has other weights: two configurations each."""
    folder = tmp_path_factory.mktemp("runs")
    space = folder / "two.json"
    space.write_text(json.dumps({"stride": [[1, 2], [2], [2], [2]]}))
    run(RunSettings(space=str(space), images=16, out=folder / "matched"))
    run(RunSettings(space=str(space), images=24, regime="wide", out=folder / "wide"))
    run(RunSettings(space=str(space), images=16, weights="rof-stride", out=folder / "other"))
    train(TrainSettings(run=folder / "matched", policies="correctness", device="cpu"))
    return folder


def test_policies_are_ranked_on_unlike_images_too(runs: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings(
        runs=(runs / "matched",),
        shifted=runs / "wide",
        learning_curve=False,
        timing=False,
        outside=False,
        device="cpu",
        out=tmp_path,
    )
    result = benchmark(settings)["runs"][0]
    shifted = result["shifted"]
    assert shifted["run"] == "wide"
    assert 0 < shifted["images"] < 24  # those beyond the scales of the matched label images
    assert [row["name"] for row in shifted["policies"]] == [row["name"] for row in result["policies"]]
    assert shifted["policies"][0]["accuracy"] != result["policies"][0]["accuracy"]
    assert json.loads((runs / "matched" / "selector" / "results.json").read_text()) == result
    assert "On images unlike those learned from (wide" in (tmp_path / "report.html").read_text()
    assert result["static_network_milliseconds"] is None
    assert result["verdicts"][-1].startswith("Control:")
    assert "### matched" in (tmp_path / "results.md").read_text()


def test_another_network_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--shifted other ran another network"):
        open_run(runs / "matched", device="cpu", shifted=runs / "other", shifted_observations=tmp_path)


def test_a_run_is_not_written_to_where_its_folders_are_elsewhere(runs: Path, tmp_path: Path) -> None:
    """As what the package ships, which may be mounted read-only."""
    before = all_bytes(runs / "matched")
    opened = open_run(
        runs / "matched",
        device="cpu",
        observations=tmp_path / "observations",
        policies=runs / "matched" / "selector" / "policies",
    )
    assert all_bytes(runs / "matched") == before
    assert opened.observations == tmp_path / "observations"
    assert any(opened.observations.rglob("*.safetensors"))
    assert (len(opened.label), len(opened.test)) == (16, 16)


def test_one_split_for_the_export(runs: Path) -> None:
    observed = observe_split(runs / "matched", "test", 16, None)
    assert set(observed.splits) == {"test"}
    assert len(observed.portfolio) == 2
