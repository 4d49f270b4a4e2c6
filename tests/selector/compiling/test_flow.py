"""Compiling a run: equal in float32, refitted in int8, found when it is there, refused when it does not fit."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynamic import UserError
from dynamic.compiled.session import CompiledSession
from oracle.run_folder import RunFolder
from oracle.runs import Run
from selector.compiling import judging
from selector.compiling.comparing import settings_of, table
from selector.compiling.decided import decided_in_float32
from selector.compiling.flow import compile_for, reports_beside
from selector.compiling.graphs import compile_run, refuse_uncompilable
from selector.compiling.opening import open_graphs
from selector.compiling.places import places, writable_place
from selector.compiling.sentences import sentences
from selector.compiling.settings import CompileSettings
from selector.compiling.speed import milliseconds
from selector.observation.costs import Costs
from selector.observation.eager import live_images
from selector.observation.images import LiveImages
from selector.policies import REFERENCES, load_policies
from selector.policies.base import Policy
from selector.policies.objectives import TERMS
from selector.policies.running import run_policy
from selector.shipped import SHIPPED
from serving.inference.opening import open_deployment
from serving.live.offline_gap import offline_gap
from serving.settings import ServingSettings
from tests.oracle.conftest import run_here

pytestmark = pytest.mark.slow  # exporting graphs takes seconds

IMAGES = 40


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped matched run with two of its policies: one that looks first, one of rungs."""
    folder = tmp_path_factory.mktemp("compiling") / "mine"
    shutil.copytree(SHIPPED["matched"], folder, ignore=shutil.ignore_patterns("compiled", ".lock"))
    kept = {"ranker", "cascade", *(reference.name for reference in REFERENCES)}
    for policy in (folder / "policies").iterdir():
        if policy.name not in kept:
            shutil.rmtree(policy)
    return folder


@pytest.fixture(scope="module")
def compiled(run_folder: Path) -> Path:
    """The same, compiled in float32 by the command."""
    done = run_here(run_folder, "--images", IMAGES, "--json", module="selector.compile")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["test_images"] == IMAGES
    assert line["equality"]["holds"]
    assert line["equality"]["other_class"] == line["equality"]["other_macs"] == 0
    assert line["equality"]["images"] >= 8 * IMAGES
    assert line["live"]["holds"]
    assert line["live"]["images"] == line["equality"]["images"]
    assert {row["policy"] for row in line["rows"]} == {path.name for path in (run_folder / "policies").iterdir()}
    for row in line["rows"]:
        assert row["equality"]["holds"]
        assert abs(row["versus_float32"]["value"]) <= 1 / IMAGES
    assert "It equals the eager network" in done.stdout
    assert f"Serve it: SERVING_NETWORK={run_folder} bentoml serve" in done.stdout
    return Path(line["place"])


def test_it_is_found_again(run_folder: Path, compiled: Path) -> None:
    assert compiled == run_folder / "compiled" / "float32"
    before = {path: path.stat().st_mtime_ns for path in compiled.rglob("*")}
    place, report, was_there = compile_for(CompileSettings(run=run_folder, images=IMAGES))
    assert was_there
    assert place == compiled
    assert {path: path.stat().st_mtime_ns for path in compiled.rglob("*")} == before
    assert "is there already" in sentences(report, place, was_there, "mine")[0]


def test_what_float32_decided_is_kept_for_other_precisions(run_folder: Path, compiled: Path) -> None:
    run = Run.open(run_folder)
    source, settings = run.images(), settings_of(load_policies(run))
    test = np.flatnonzero(source.splits == "test")[:IMAGES]
    keys, labels = source.keys[test], source.labels[test]
    place = compiled.with_name("int8")
    found = decided_in_float32(run, place, settings, keys, labels)
    assert found is not None
    _, report, _ = compile_for(CompileSettings(run=run_folder, images=IMAGES))
    accuracies = [float((made.predicted == labels).mean()) for made in found]
    assert accuracies == [row["float32"]["accuracy"] for row in report["rows"]]
    assert [float(made.macs.mean() / 1e9) for made in found] == [row["float32"]["gmacs"] for row in report["rows"]]
    assert decided_in_float32(run, place, settings, keys[1:], labels[1:]) is None, "of other images"


def test_decisions_recorded_eager_and_compiled_are_the_same(run_folder: Path, compiled: Path) -> None:
    run = Run.open(run_folder)
    source, policies = run.images(), load_policies(run)
    batch = source.load(np.flatnonzero(source.splits == "test")[:12]).images
    network, graphs = run.fast_network(), open_graphs(run, compiled)
    portfolio = graphs.configurations
    costs = Costs(run.network, portfolio, source.resolution)
    for policy in policies:
        for dial in list(policy.dials)[::6] or [None]:
            eager = live_images(network, batch, portfolio, costs)
            session = CompiledSession(graphs, batch.numpy())
            live = LiveImages(session, batch.numpy(), portfolio, graphs.default, costs)
            one, other = run_policy(policy, eager, dial), run_policy(policy, live, dial)
            assert one.columns.tolist() == other.columns.tolist()
            assert one.predicted.tolist() == other.predicted.tolist()
            assert one.macs.tolist() == other.macs.tolist()
            # What is charged is what the eager session really ran, and what the compiled one says that it did.
            assert (live.spent - live.charged).tolist() == session.macs.tolist() == eager.session.macs.tolist()


def test_costs_are_read_back_as_they_were(run_folder: Path) -> None:
    run = Run.open(run_folder)
    costs = Costs(run.network, run.configurations, 96)
    again = Costs.from_arrays(costs.arrays())
    for name, value in vars(costs).items():
        assert np.array_equal(getattr(again, name), value), name


def test_graphs_for_other_policies_are_refused_and_made_again(run_folder: Path, compiled: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "policies" / "ranker")
    run, place = Run.open(tmp_path / "mine"), tmp_path / "mine" / "compiled" / "float32"
    with pytest.raises(UserError, match=r"was compiled for other policies: python -m selector\.compile"):
        open_graphs(run, place)
    _, report, was_there = compile_for(CompileSettings(run=tmp_path / "mine", check=False))
    assert not was_there
    assert report["rows"] == []
    assert open_graphs(run, place).precision == "float32"
    graph = next(place.glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-9])
    with pytest.raises(UserError, match="is damaged: it differs from its digest"):
        open_graphs(run, place)


def test_policies_of_a_precision_are_saved_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts meanwhile sees all of the new ones or all of the old ones."""

    def fitted(policies: list[Policy], label: object, out: Path, seed: int, *more: object) -> list[Policy]:
        (out / f"seed {seed}").mkdir(parents=True)
        if seed == 2:
            raise KeyboardInterrupt
        return policies

    monkeypatch.setattr(judging, "fit_all", fitted)
    for seed in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt) if seed == 2 else nullcontext():
            judging._fitted([], None, tmp_path / "policies", seed, TERMS)  # type: ignore[arg-type]
        assert [path.name for path in (tmp_path / "policies").iterdir()] == [f"seed {1 if seed == 2 else seed}"]
    assert [path.name for path in tmp_path.iterdir()] == ["policies"]


def test_a_precision_is_timed_beside_float32_where_there_are_graphs_of_it(run_folder: Path, compiled: Path) -> None:
    run, missing = Run.open(run_folder), compiled.with_name("missing")
    network = open_graphs(run, compiled)
    assert milliseconds(run, network, [missing]) is None
    taken = milliseconds(run, network, [missing, compiled])
    assert taken is not None
    assert taken.keys() == {"images", "float32"}
    assert min(taken.values()) > 0


@pytest.mark.nightly
def test_int8_has_policies_of_its_own_and_stands_beside_float32(run_folder: Path, compiled: Path) -> None:
    settings = CompileSettings(run=run_folder, precision="int8", images=IMAGES)
    place, report, _ = compile_for(settings)
    run = Run.open(run_folder)
    fitted = load_policies(run, folder=place / "policies")
    keys = run.images().keys
    assert {policy.labels_ for policy in fitted} == {IMAGES}
    assert fitted[0].fitted_on_ == set(keys[:IMAGES])  # of the label split, which comes first
    assert report["label_images"] == report["test_images"] == IMAGES
    assert report["milliseconds"].keys() == {"images", "float32", "int8"}
    assert any(line.startswith("The default takes ") for line in sentences(report, place, False, "mine"))
    header, lines = table(reports_beside(run, place, report))
    assert header[2:] == ["float32", "MMACs", "int8", "MMACs", "int8 - float32"]
    default = next(line for line in lines if line[0] == "default")
    float32 = next(row for row in report["rows"] if row["policy"] == "default")["float32"]
    assert default[2] == f"{float32['accuracy']:.1%}"
    assert compile_for(settings)[2]
    deployment = open_deployment(ServingSettings(network=str(run_folder), device="cpu", precision="int8"))
    gap = offline_gap(deployment)
    assert (gap["available"], gap["precision"], gap["images"]) == (True, "int8", IMAGES)
    rows = {(row["policy"], row["objective"]): row for row in report["rows"]}
    for shown in gap["policies"]:
        if shown["policy"] != "oracle":
            row = rows[shown["policy"], shown["objective"]]
            assert shown["accuracy"] == row["accuracy"]
            assert shown["objective"] is None or shown["dial"] == row["dial"]
            assert shown["gmacs"] == pytest.approx(row["gmacs"])
    # Without what float32 decided the eager network says the same again, and another seed is fitted anew.
    (compiled / "decided.safetensors").unlink()
    _, seeded, was_there = compile_for(replace(settings, seed=1))
    assert not was_there
    assert [row["float32"] for row in seeded["rows"]] == [row["float32"] for row in report["rows"]]
    assert compile_for(replace(settings, seed=1))[2]


def test_what_cannot_be_compiled_says_why(run_folder: Path, tmp_path: Path) -> None:
    run = Run.open(run_folder)
    run.__dict__["settings"] = replace(run.settings, crop=0.5)
    with pytest.raises(UserError, match="cannot be compiled: it crops or resizes images behind their preprocessing"):
        refuse_uncompilable(run)
    run.__dict__["settings"] = replace(run.settings, crop=1.0, dtype="bfloat16")
    with pytest.raises(UserError, match="cannot be compiled: it ran in bfloat16, and graphs are made from float32"):
        compile_run(run, tmp_path / "float32")
    with pytest.raises(UserError, match="holds something else than graphs: name a folder that is empty or new"):
        compile_for(CompileSettings(run=run_folder, out=run_folder))
    with pytest.raises(UserError, match="no run in"):
        compile_for(CompileSettings(run=tmp_path))
    with pytest.raises(UserError, match="--images must be at least 8, not 3"):
        CompileSettings(run=tmp_path, images=3)
    with pytest.raises(UserError, match="--no-check is for float32"):
        CompileSettings(run=tmp_path, check=False, precision="int8")


def test_a_run_in_an_installed_package_goes_to_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installed = tmp_path / "site-packages" / "matched"
    shutil.copytree(SHIPPED["matched"], installed, ignore=shutil.ignore_patterns("compiled", ".lock", "outcomes.zarr"))
    monkeypatch.setitem(SHIPPED, "matched", installed)
    run = RunFolder.open(installed)
    place = writable_place(run, "float32")
    assert place.is_relative_to(tmp_path / "cache")
    assert places(run, "float32") == [installed / "compiled" / "float32", place]
    # Of other policies it is another.
    shutil.rmtree(installed / "policies" / "head")
    assert writable_place(run, "float32") != place
