"""The real commands on a real, small run: train, benchmark, resume, refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic import Configuration, UserError
from dynamic.integrity import read_record
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.fitting import halves
from selector.learning.observing import observe_run
from selector.learning.training import TrainSettings, train
from selector.observation import observe
from selector.observation.costs import Costs
from selector.observation.eager import live_images
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies import load_policies
from selector.policies.running import run_policy
from selector.scoring.benchmark import BenchmarkSettings, benchmark
from selector.shipped import SHIPPED
from selector.tuning.learnable import steps_of
from selector.tuning.portfolio_search import SearchSettings, search_run
from tests.oracle.conftest import all_bytes, run_here
from tests.plain_loop import plain_loop

IMAGES = 48

pytestmark = pytest.mark.slow  # each starts commands on a run that takes half a minute to make


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oracle run of six configurations, and policies learned from it."""
    folder = tmp_path_factory.mktemp("selector")
    space = folder / "six.json"
    space.write_text(json.dumps({"stride": [[1, 2], [2, 3], [2], [2, 1]], "dilation": [[1], [1], [1], [1]]}))
    run(RunSettings(space=str(space), images=IMAGES, regime="wide", recalibrate=32, out=folder / "run"))
    space.unlink()  # the run knows its configurations
    result = run_here(folder / "run", "--policies", "correctness,stagewise,cascade,head", "--json", module="selector.train")
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["images"] == IMAGES
    assert {row["policy"] for row in line["expected"]} >= {"default", "single_best", "correctness", "cascade"}
    assert "correctness" in result.stdout
    return folder / "run"


def observed(path: Path) -> Observations:
    opened = Run.open(path)
    return observe_run(opened, opened.images(), opened.outcomes(), opened.configurations, opened.observations)


def test_benchmark_prints_a_table_and_a_line(trained: Path, tmp_path: Path) -> None:
    result = run_here(trained, "--out", tmp_path, "--json", module="selector.benchmark")
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout.splitlines()[-1])
    rows = {row["name"]: row for row in line["policies"]}
    assert {"default", "single_best", "cheapest", "random", "oracle", "cascade/efficiency", "head/accuracy"} <= set(rows)
    assert rows["oracle"]["closed_gap"] in (1.0, None)
    for row in rows.values():
        assert 0 <= row["accuracy"] <= 1
        assert row["gmacs"] > 0
        assert row["closed_gap_ci"] is None or row["closed_gap_ci"][0] <= row["closed_gap_ci"][1]
        assert row["name"] in ("asf_pairwise", "oracle") or row["milliseconds"]["1"] > 0
    assert not rows["oracle"]["learned"]
    assert rows["cascade/accuracy"]["learned"]
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "cascade" in page
    assert (tmp_path / "figures" / "run_frontier.png").stat().st_size > 10_000
    stored = json.loads((tmp_path / "results.json").read_text())["runs"][0]
    assert stored["policies"] == line["policies"]
    assert len(stored["by_side"]) == 5
    assert stored["timed_in"] == "ONNX Runtime on 1 thread"
    assert "at batch 1 and 32 in ONNX Runtime on 1 thread" in page


def test_a_searched_portfolio_is_trained_on_and_ranked(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("policies", "observations"))
    result = run_here(tmp_path / "run", "--size", 3, "--max-macs", 1.1, "--json", module="selector.search")
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout.splitlines()[-1])
    opened = Run.open(tmp_path / "run")
    listed = opened.searched / "portfolio.json"
    assert line["out"] == str(listed)
    assert json.loads(listed.read_text()) == line["portfolio"]
    assert len(line["portfolio"]) == 3
    assert opened.network.default.id in line["portfolio"]
    assert line["label_images"] == {"searched_on": IMAGES // 2, "promised_on": IMAGES // 2}
    assert "Cost: " in result.stdout
    steps = steps_of("ridge", 3)
    assert f" {steps}/{steps} " in result.stderr  # the bar's last step, of one pass of exchanges
    splits = [observed.name for observed in opened.observations.iterdir()]
    assert len(splits) == 1  # of the default alone, label images only
    policies = train(TrainSettings(run=tmp_path / "run", among=listed, policies="cascade", device="cpu"))
    assert all(set(policy.portfolio_) == set(line["portfolio"]) for policy in policies)
    searched = frozenset(read_record(opened.searched / "search.json")["searched_on"])
    assert "searched_on" not in line  # thousands of names
    assert len(searched) == IMAGES // 2
    for policy in policies:
        assert policy.chosen_on_ == searched < policy.fitted_on_
    chosen = train(TrainSettings(run=tmp_path / "run", portfolio=3, policies="cascade", device="cpu"))[0]
    assert (len(chosen.portfolio_), chosen.labels_) == (3, IMAGES)
    assert chosen.chosen_on_ == halves(chosen.fitted_on_)[0]
    assert chosen.promised_on_ == IMAGES - len(chosen.chosen_on_)
    everything = train(TrainSettings(run=tmp_path / "run", policies="cascade", device="cpu"))[0]
    assert everything.promised_on_ == everything.labels_  # nothing was chosen
    train(TrainSettings(run=tmp_path / "run", among=listed, policies="cascade", device="cpu"))
    run(RunSettings(space=str(listed), images=IMAGES, out=tmp_path / "anew"))
    for among in (listed, None):  # the run remembers what it was made for
        anew = train(TrainSettings(run=tmp_path / "anew", among=among, policies="cascade", device="cpu"))[0]
        assert anew.chosen_on_ == searched  # of the same images
    wanted = BenchmarkSettings(
        runs=(tmp_path / "run",), out=tmp_path / "out", learning_curve=False, timing=False, outside=False, device="cpu"
    )
    assert set(benchmark(wanted)["runs"][0]["run"]["configurations"]) == set(line["portfolio"])


def test_views_are_observed_and_learned_from(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("policies"))
    result = run_here(tmp_path / "run", "--views", 2, "--policies", "stacking", "--json", module="selector.train")
    assert result.returncode == 0, result.stderr
    opened = Run.open(tmp_path / "run")
    assert (opened.observations / "view-1").is_dir()
    twice = {policy.name: policy for policy in load_policies(opened)}["stacking"]
    once = {p.name: p for p in train(TrainSettings(run=tmp_path / "run", policies="stacking", device="cpu"))}["stacking"]
    assert twice.fitted_on_ == once.fitted_on_
    assert twice.labels_ == twice.promised_on_ == IMAGES
    assert (twice.views_, once.views_) == (2, 1)
    assert twice._state().texts != once._state().texts
    # Among fewer configurations views are narrowed as the images are.
    few = [*[c.id for c in opened.configurations if c != opened.network.default][2:4], opened.network.default.id]
    (tmp_path / "few.json").write_text(json.dumps(few))
    settings = TrainSettings(run=tmp_path / "run", views=2, among=tmp_path / "few.json", policies="stacking", device="cpu")
    narrowed = {policy.name: policy for policy in train(settings)}["stacking"]
    assert set(narrowed.portfolio_) == set(few)
    assert narrowed.views_ == 2
    with pytest.raises(UserError, match="--views 2: none of these policies learns from further views"):
        train(TrainSettings(run=tmp_path / "run", views=2, policies="cascade"))
    with pytest.raises(UserError, match="--views must be at least 1, not 0"):
        TrainSettings(run=tmp_path / "run", views=0)


def test_search_refuses(trained: Path, tmp_path: Path) -> None:
    result = run_here(trained, "--size", 9, module="selector.search")
    assert result.returncode == 2
    assert "ran 8 configurations, fewer than --size 9" in result.stderr
    run(RunSettings(space=str(_two(tmp_path)), images=12, out=tmp_path / "few"))
    with pytest.raises(UserError, match="has 12 label images, too few to search on one half"):
        search_run(SearchSettings(run=tmp_path / "few", size=2, device="cpu"))
    listed = tmp_path / "other.json"
    listed.write_text(json.dumps(["s1-2-2-2_d1-1-1-1_k3-3-3-3", "s1-3-3-3_d1-1-1-1_k3-3-3-3"]))
    with pytest.raises(UserError, match="did not run"):
        train(TrainSettings(run=tmp_path / "few", among=listed, device="cpu"))
    few = Run.open(tmp_path / "few")
    others = [c.id for c in few.configurations if c != few.network.default]
    listed.write_text(json.dumps([*others[:1], "s1-3-3-3_d1-1-1-1_k3-3-3-3"]))
    with pytest.raises(UserError, match=rf"--among .*other\.json lacks the default {few.network.default.id}"):
        train(TrainSettings(run=tmp_path / "few", among=listed, device="cpu"))
    listed.write_text(json.dumps([few.configurations[-1].id] * 2))
    with pytest.raises(UserError, match="lists 1 configurations: 2 to 32 can be chosen among"):
        train(TrainSettings(run=tmp_path / "few", among=listed, device="cpu"))


def test_decisions_are_what_the_network_really_answers(trained: Path) -> None:
    """RecordedImages decisions, run by a plain loop with the original modules; and the same policies on the live network."""
    opened = Run.open(trained)
    source = opened.images()
    test = observed(trained).split("test")
    rows = np.flatnonzero(source.splits == "test")
    images = source.load(rows).images
    network = opened.fast_network()
    costs = Costs(opened.network, test.portfolio, 96)
    for policy in load_policies(opened):
        for dial in list(policy.dials)[::6] or [None]:
            outcome = run_policy(policy, RecordedImages(test), dial)
            with torch.inference_mode():
                answers = network(images, [test.portfolio[column] for column in outcome.columns]).argmax(dim=1).numpy()
            assert (answers == outcome.predicted).mean() >= 0.97, policy.name  # half precision may turn a tie
            live = live_images(network, images, test.portfolio, costs, test.keys)
            lived = run_policy(policy, live, dial)
            assert (lived.columns == outcome.columns).mean() >= 0.95, policy.name
            assert (lived.predicted == answers)[lived.columns == outcome.columns].mean() >= 0.97
            # What is charged is what was run, to the last multiply-add, beside what is not the network's.
            same = lived.columns == outcome.columns
            assert np.allclose(lived.macs[same], outcome.macs[same])
            assert np.allclose(live._ran @ costs.macs, live.session.macs)


def test_outcomes_equal_the_plain_loop(tmp_path: Path) -> None:
    """Without recalibration: what is observed is what mutated torchvision modules answer."""
    run(RunSettings(space=str(_two(tmp_path)), images=12, out=tmp_path / "run"))
    opened = Run.open(tmp_path / "run")
    seen = observed(tmp_path / "run")
    images = opened.images().load(np.arange(len(seen))).images
    expected = plain_loop(opened.network.original, "resnet50", list(seen.portfolio), images).softmax(dim=2).numpy()
    assert np.abs(expected.swapaxes(0, 1) - seen.probabilities).max() < 2e-3
    assert (seen.predicted == expected.argmax(axis=2).T).all()


def _two(folder: Path) -> Path:
    path = folder / "two.json"
    path.write_text(json.dumps({"stride": [[1, 2], [2], [2], [2]]}))
    return path


def test_an_interrupted_observation_goes_on(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained, tmp_path / "run")
    folder = Run(tmp_path / "run").observations
    monkeypatch.setattr(observe, "BLOCK", 20)
    shutil.rmtree(folder)
    whole = observed(tmp_path / "run")
    before = all_bytes(folder)
    next(folder.glob("*/0000020.safetensors")).unlink()
    again = observed(tmp_path / "run")
    assert all_bytes(folder) == before
    assert np.array_equal(whole.probabilities, again.probabilities)
    # Another portfolio has a folder of its own; blocks of another size do not fit.
    opened = Run.open(tmp_path / "run")
    source = opened.images()
    observe.observe(opened, source, opened.configurations[:4], folder)
    assert before.items() <= all_bytes(folder).items()
    monkeypatch.setattr(observe, "BLOCK", 30)
    with pytest.raises(UserError, match=r"holds another run \(block is 20 there, 30 here\)"):
        observe.observe(opened, source, opened.configurations, folder)


def test_benchmark_refuses(trained: Path, tmp_path: Path) -> None:
    result = run_here(trained, "--shifted", tmp_path, "--out", tmp_path / "out", module="selector.benchmark")
    assert result.returncode == 2
    assert f"no run in {tmp_path}" in result.stderr
    assert "Traceback" not in result.stderr
    with pytest.raises(UserError, match="no run in"):
        benchmark(BenchmarkSettings(runs=(tmp_path,), out=tmp_path / "out"))
    assert BenchmarkSettings(runs=(Path("matched"), tmp_path)).folders == [SHIPPED["matched"], tmp_path]
    with pytest.raises(UserError, match="--shifted goes with one run"):
        BenchmarkSettings(shifted=tmp_path)
    with pytest.raises(UserError, match="--rivals goes with one run"):
        BenchmarkSettings(rivals=(tmp_path,))
    with pytest.raises(UserError, match=r"make one with python -m oracle\.run"):
        train(TrainSettings(run=tmp_path))
    with pytest.raises(UserError, match="--portfolio must be from 2 to 32, not 1"):
        TrainSettings(run=tmp_path, portfolio=1)


def test_a_policy_fitted_on_test_rows_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    for number, policy in enumerate(load_policies(opened)):
        policy.fitted_on_ = frozenset(["label/00000", "test/00003"])
        policy.save(opened.policies / policy.name)
        if number == 0:
            with pytest.raises(UserError, match="learned from different portfolios or images: delete it and train again"):
                load_policies(opened)
    with pytest.raises(UserError, match="default was fitted on 1 of the images it would be scored on, such as test/00003"):
        benchmark(BenchmarkSettings(runs=(tmp_path / "run",), out=tmp_path / "out", learning_curve=False, timing=False))


def test_a_changed_network_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    opened.write_record(replace(opened.record, network=replace(opened.record.network, registered="rof-stride")))
    with pytest.raises(UserError, match="holds another run \\(weights is"):
        _ = Run.open(tmp_path / "run").network


def test_aslib_files_are_read_by_others(trained: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("asf.scenario.aslib_reader")
    label = observed(trained).split("label")
    result = run_here(trained, "--out", tmp_path, "--json", module="selector.aslib")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["instances"] == len(label)
    features, performance, _, folds, steps, maximize, _ = reader.read_aslib_scenario(str(tmp_path))
    assert maximize
    assert set(steps) == {"image", "stem"}
    assert list(performance.index) == sorted(label.keys)
    order = np.argsort(label.keys)
    ids = [Configuration.parse(name).id for name in performance.columns]
    columns = [[c.id for c in label.portfolio].index(name) for name in ids]
    assert np.allclose(performance.to_numpy(), label.quality[order][:, columns], atol=1e-5)
    assert np.allclose(features["filled"].to_numpy(), label.image[order, -1], atol=1e-4)
    assert sorted(folds["fold"].unique()) == [1, 2, 3, 4]
