"""Two small real runs: a ranking on the test split of one, and on images of the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamic import UserError
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.compiling.flow import compile_for
from selector.compiling.settings import CompileSettings
from selector.learning.training import TrainSettings, train
from selector.scoring.benchmark import BenchmarkSettings, benchmark
from selector.scoring.opening import observe_split, open_run
from selector.scoring.results import read_results
from selector.tuning.settings import TuneSettings
from selector.tuning.tuning import tune
from tests.in_use import in_use
from tests.oracle.conftest import all_bytes

pytestmark = pytest.mark.slow  # three runs


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
    assert read_results(Run.open(runs / "matched"))["policies"] == json.loads(json.dumps(result["policies"]))
    assert "On images unlike those learned from (wide" in (tmp_path / "report.html").read_text()
    assert result["static_network_milliseconds"] is None
    assert result["verdicts"][-1].startswith("Control:")
    assert "### matched" in (tmp_path / "results.md").read_text()


def test_another_network_stands_beside_the_policies(runs: Path, tmp_path: Path) -> None:
    quick = {"learning_curve": False, "timing": False, "outside": False, "device": "cpu", "out": tmp_path}
    told = benchmark(BenchmarkSettings(runs=(runs / "matched",), rivals=(runs / "other",), **quick))["runs"][0]
    (row,) = told["networks"]
    other = Run.open(runs / "other")
    outcomes = other.outcomes().sel(configuration=other.network.default.id)
    right = (outcomes["predicted"] == outcomes["label"]).values[outcomes["split"].values == "test"]
    assert (row["name"], row["accuracy"]) == ("other", right.mean())
    assert row["gmacs"] == told["run"]["default_gmacs"]
    assert any(sentence.startswith("other, another network run statically") for sentence in told["verdicts"])
    assert "another network" in (tmp_path / "report.html").read_text()
    remembered = benchmark(BenchmarkSettings(runs=(runs / "matched",), **quick))["runs"][0]
    assert remembered["networks"] == told["networks"]
    with pytest.raises(UserError, match="a rival must be a run on the images of"):
        open_run(runs / "matched", device="cpu", rivals=[runs / "wide"])


def test_another_network_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other belongs to another network \(weights .* there, .* here\): --shifted takes"):
        open_run(runs / "matched", device="cpu", elsewhere=tmp_path, shifted=runs / "other")


def test_a_run_that_cannot_be_written_to_is_left_alone(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that the package ships, or a folder mounted read-only."""
    before = all_bytes(runs / "matched")
    with monkeypatch.context() as patch:
        patch.setattr("selector.scoring.opening.SHIPPED", {"matched": runs / "matched"})
        opened = open_run(runs / "matched", device="cpu", elsewhere=tmp_path / "shipped")
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        open_run(runs / "matched", device="cpu", elsewhere=tmp_path / "read-only")
    assert all_bytes(runs / "matched") == before
    for name in ("shipped", "read-only"):
        assert any((tmp_path / name / "observations").rglob("*.safetensors"))
    assert (len(opened.label), len(opened.test)) == (16, 16)


@pytest.mark.parametrize("command", ["train", "benchmark", "compile", "tune", "export"])
def test_a_run_in_use_is_refused(runs: Path, tmp_path: Path, command: str) -> None:
    run = runs / "matched"
    before = all_bytes(run)
    commands = {
        "train": lambda: train(TrainSettings(run=run)),
        "benchmark": lambda: benchmark(BenchmarkSettings(runs=(run,), out=tmp_path)),
        "compile": lambda: compile_for(CompileSettings(run=run, check=False)),
        "tune": lambda: tune(TuneSettings(out=run)),
        "export": lambda: observe_split(run, "label", 16, None),
    }
    with in_use(run), pytest.raises(UserError, match=r"matched is in use by process \d+, which runs since .*: wait"):
        commands[command]()
    assert all_bytes(run) == before


def test_one_split_for_the_export(runs: Path) -> None:
    observed = observe_split(runs / "matched", "test", 16, None)
    assert set(observed.splits) == {"test"}
    assert len(observed.portfolio) == 2
