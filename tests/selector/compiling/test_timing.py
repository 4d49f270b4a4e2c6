"""Milliseconds on compiled graphs: what is timed there is what policies and the static network are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dynamic.compiled.runtimes import pool_threads
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.compiling.timing import stopwatch_on_graphs
from selector.learning.training import TrainSettings, train
from selector.observation.eager import live_images
from selector.policies.running import PolicyRun, run_policy
from selector.scoring.opening import OpenedRun, images_to_time, open_run

pytestmark = pytest.mark.slow  # exporting graphs takes seconds


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedRun:
    folder = tmp_path_factory.mktemp("timing")
    space = folder / "three.json"
    space.write_text(json.dumps({"stride": [[1, 2], [2], [2], [2]], "dilation": [[1], [1], [1], [1]]}))
    run(RunSettings(space=str(space), images=120, recalibrate=32, out=folder / "run"))
    train(TrainSettings(run=folder / "run", policies="cascade,correctness", device="cpu"))
    return open_run(folder / "run", device="cpu")


def test_graphs_are_made_and_timed(opened: OpenedRun) -> None:
    """Each policy decides, answers and is charged as in the eager engine; the static network is the default."""
    stopwatch = stopwatch_on_graphs(opened)
    assert stopwatch.engine.startswith(f"ONNX Runtime on {pool_threads()} thread")
    assert (opened.run.compiled / "float32").is_dir()
    images = images_to_time(opened)[:12]
    network = opened.run.fast_network()
    for policy in opened.policies:
        dial = policy.points_[0].dial if policy.dials else None
        live = live_images(network, images, opened.test.portfolio, opened.test.costs)
        expected, found = run_policy(policy, live, dial), stopwatch.run(policy, dial, images.numpy())
        assert isinstance(found, PolicyRun)
        assert (found.columns == expected.columns).all(), policy.name
        assert (found.predicted == expected.predicted).all()
        np.testing.assert_allclose(found.macs, expected.macs)
    with torch.inference_mode():
        default = network(images, network.default).argmax(dim=1).numpy()
    assert (stopwatch.run_static(images.numpy()) == default).all()
    timed = stopwatch.time(opened.policies[0], None)
    assert timed["milliseconds"]["1"] > 0


def test_what_cannot_be_compiled_is_timed_in_pytorch(
    opened: OpenedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Run, "settings", replace(opened.run.settings, crop=0.5))
    assert stopwatch_on_graphs(opened).engine == "PyTorch"
    said = capsys.readouterr().err
    assert said.startswith("milliseconds are taken in PyTorch: ")
    assert "crops or resizes" in said


def test_another_device_is_timed_in_pytorch(opened: OpenedRun) -> None:
    assert stopwatch_on_graphs(replace(opened, device="cpu:0")).engine == "PyTorch"
