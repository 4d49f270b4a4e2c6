"""Observations follow a run that was given more images."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dynamic.integrity import write_arrays, write_record
from oracle.data.digests import digest_of
from oracle.data.scenes_source import ScenesSource
from oracle.data.sources import SPLITS
from oracle.evaluation.collect import collect, open_collection
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.training import TrainSettings, train
from selector.observation import observe
from selector.observation.earlier import IDENTITY, block_file, set_aside
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.fixture
def images() -> SimpleNamespace:
    """Six images of each split."""
    splits = np.repeat(SPLITS, 6)
    return SimpleNamespace(keys=np.array([f"{row}" for row in range(12)]), labels=np.arange(12), splits=splits)


def write(folder: Path, images: SimpleNamespace, few: int) -> dict[str, str]:
    """Observations of the first ``few`` images of each split, in blocks of four; and their identity."""
    rows = np.concatenate([np.flatnonzero(images.splits == split)[:few] for split in SPLITS])
    identity = {"images": digest_of(images.keys[rows], images.labels[rows])}
    folder.mkdir()
    write_record(folder / IDENTITY, identity)
    for start in range(0, len(rows), 4):
        write_arrays(block_file(folder, start), {"row": rows[start : start + 4]})
    return identity


@pytest.mark.parametrize("survivor", [IDENTITY, "0000000.safetensors"])
@pytest.mark.parametrize("what", ["taken over", "half made", "of other images"])
def test_a_deletion_may_be_interrupted(
    what: str, survivor: str, images: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, every = tmp_path / "out", write(tmp_path / "all", images, 6)
    write(out, images, 3)
    if what == "half made":
        shutil.copytree(out, tmp_path / "out.before")
    if what == "of other images":
        write_record(out / IDENTITY, {"images": "6 (others)"})
        out.rename(tmp_path / "out.before")

    def stop(folder: Path, ignore_errors: bool = False) -> None:
        for path in Path(folder).glob("*"):
            if path.name != survivor:
                path.unlink()
        if Path(folder).exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            set_aside(out, every, images, 4).drop()
    earlier = set_aside(out, every, images, 4)
    known = earlier.has(np.arange(12))
    assert known.sum() == (6 if what == "half made" else 0)
    if known.any():
        assert earlier.take(np.flatnonzero(known))["row"].tolist() == np.flatnonzero(known).tolist()
    earlier.drop()
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


@pytest.mark.parametrize("name", ["out", "out.before"])
def test_blocks_without_an_identity_are_not_trusted(name: str, images: SimpleNamespace, tmp_path: Path) -> None:
    every = write(tmp_path / "all", images, 6)
    write(tmp_path / name, images, 3)
    (tmp_path / name / IDENTITY).unlink()
    assert not set_aside(tmp_path / "out", every, images, 4).has(np.arange(12)).any()
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


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
