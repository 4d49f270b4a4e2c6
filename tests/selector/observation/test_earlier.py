"""Observations follow a run that was given more images."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from oracle.data.scenes_source import ScenesSource
from oracle.evaluation.collect import collect, open_collection
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.training import TrainSettings, train
from selector.observation import observe
from selector.observation.observations import Observations
from selector.policies import load_policies
from selector.scoring.opening import open_run


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(observe, "BLOCK", 4)
    space = tmp_path / "two.json"
    space.write_text(json.dumps({"stride": [[1, 2], [2], [2], [2]]}))
    return {"space": str(space), "out": tmp_path / "run"}


def observed(settings: dict[str, object], images: int) -> Observations:
    collect(open_collection(RunSettings(images=images, **settings)))
    run = Run.open(settings["out"])
    return observe.observe(run, run.images(), run.configurations, run.observations)


def assert_same(few: Observations, many: Observations) -> None:
    rows = [many.keys.tolist().index(key) for key in few.keys]
    part = many.rows(np.array(rows))
    for field in fields(Observations):
        found = getattr(part, field.name)
        if isinstance(found, np.ndarray):
            assert np.array_equal(found, getattr(few, field.name)), field.name
    for name, values in few.stage_values.items():
        assert np.array_equal(part.stage_values[name], values)


def test_only_new_images_are_observed(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    few = observed(settings, 5)
    collect(open_collection(RunSettings(images=9, **settings)))
    keys, load = [], ScenesSource.load
    monkeypatch.setattr(ScenesSource, "load", lambda self, rows: keys.extend(self.keys[rows]) or load(self, rows))
    many = observed(settings, 9)
    assert sorted(keys) == sorted(set(many.keys) - set(few.keys))
    assert_same(few, many)
    assert len(many) == 18
    assert [path.name for path in (settings["out"] / "observations").iterdir() if path.suffix] == []
    keys.clear()
    assert_same(many, observed(settings, 9))
    assert not keys


def test_an_interrupted_extension_goes_on_whatever_is_asked_for_next(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = observed(settings, 5)
    with monkeypatch.context() as patched:
        written, write = [], observe.write_arrays

        def stop(path: Path, arrays: dict[str, np.ndarray]) -> None:
            written.append(path)
            if len(written) == 3:
                raise KeyboardInterrupt
            write(path, arrays)

        patched.setattr(observe, "write_arrays", stop)
        with pytest.raises(KeyboardInterrupt):
            observed(settings, 9)
    many = observed(settings, 11)
    assert_same(few, many)
    assert len(many) == 22
    assert len(list((settings["out"] / "observations").iterdir())) == 1


@pytest.mark.slow
def test_policies_of_fewer_images_stay_valid_and_training_refits(settings: dict[str, object]) -> None:
    out = settings["out"]
    observed(settings, 12)
    train(TrainSettings(run=out, policies="cascade", device="cpu"))
    before = {policy.name: policy.fitted_on_ for policy in load_policies(Run.open(out))}
    collect(open_collection(RunSettings(images=20, **settings)))
    opened = open_run(out, device="cpu")
    assert len(opened.test) == len(opened.label) == 20
    assert not before["cascade"] & set(opened.test.keys)
    train(TrainSettings(run=out, policies="cascade", device="cpu"))
    after = {policy.name: policy.fitted_on_ for policy in load_policies(Run.open(out))}
    assert before["cascade"] < after["cascade"]
    assert after["cascade"] == set(opened.label.keys)
