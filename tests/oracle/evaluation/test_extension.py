"""More images for a run: only the new ones are evaluated, and nothing is lost on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import dynamic
import oracle.outcomes
from dynamic import UserError
from oracle.data.folders import FolderSource
from oracle.data.scenes_source import ScenesSource
from oracle.evaluation.collect import collect, open_collection
from oracle.outcomes import read_outcomes, recover_store
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from tests.image_folders import fill
from tests.oracle.conftest import all_bytes, command, environment

MODEL = {"model": "resnet50-slim", "region": 4}


def columns(outcomes: xr.Dataset) -> pd.DataFrame:
    """Every number by image."""
    frame = pd.DataFrame(np.hstack([outcomes["predicted"].values, outcomes["p_true"].values]))
    return frame.set_index(pd.Index(outcomes["image"].values))


def loaded(monkeypatch: pytest.MonkeyPatch, kind: type) -> list[str]:
    """Keys of what is read from now on."""
    keys, load = [], kind.load
    monkeypatch.setattr(kind, "load", lambda self, rows: keys.extend(self.keys[rows]) or load(self, rows))
    return keys


@pytest.mark.slow
def test_scenes_are_added(tmp_path: Path, small_space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"space": small_space, "out": tmp_path / "run", **MODEL}
    run(RunSettings(images=6, **settings))
    before, labels = columns(read_outcomes(tmp_path / "run")), Run(tmp_path / "run").labels.read_bytes()
    read = loaded(monkeypatch, ScenesSource)
    summary = run(RunSettings(images=15, **settings))
    assert len(read) == 18
    assert not {*read} & {*before.index}
    opened = Run.open(tmp_path / "run")
    opened.verify_all()
    after = columns(opened.outcomes())
    pd.testing.assert_frame_equal(after.loc[before.index], before, check_exact=True)
    fresh = columns_of_a_fresh_run(tmp_path, small_space, 15)
    assert after.index.tolist() == fresh.index.tolist()
    np.testing.assert_allclose(after, fresh, atol=1e-5)
    assert [summary["spaces"]["small"][split]["images"] for split in ("label", "test")] == [15, 15]
    assert opened.settings.images == 15
    assert opened.labels.read_bytes() != labels
    assert opened.images().identity == opened.record.images
    # What is asked for again is there, and fewer are refused by their number.
    read.clear()
    run(RunSettings(images=15, **settings))
    assert not read
    with pytest.raises(UserError, match=r"holds 30 images, --images 6 asks for 12: ask for as many or more"):
        run(RunSettings(images=6, **settings))
    Run.open(tmp_path / "run")
    # Other differences are refused as before.
    with pytest.raises(UserError, match="regime is matched there, wide here"):
        run(RunSettings(images=20, regime="wide", **settings))


def columns_of_a_fresh_run(tmp_path: Path, space: str, images: int) -> pd.DataFrame:
    return columns(evaluated(RunSettings(images=images, space=space, out=tmp_path / "fresh", **MODEL)))


def evaluated(settings: RunSettings) -> xr.Dataset:
    """The outcomes alone, without labels and report."""
    return collect(open_collection(settings))


@pytest.mark.slow
def test_images_of_a_folder_are_added_and_what_was_unreadable_stays(
    tmp_path: Path, small_space: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "data", {"a": 12, "b": 12}, ".png")
    network = dynamic.load("resnet50-slim", weights=None, classes=2)
    bad = FolderSource("imagefolder", tmp_path / "data", network.info, 3, 0, None).keys[1]
    (tmp_path / "data" / bad).write_bytes(b"no image")
    settings = {"space": small_space, "out": tmp_path / "run", "dataset": "imagefolder", "data_dir": tmp_path / "data"}
    run(RunSettings(images=3, recalibrate=6, **settings, **MODEL), network)
    statistics = Run(tmp_path / "run").statistics_file.read_bytes()
    before = columns(read_outcomes(tmp_path / "run"))
    read = loaded(monkeypatch, FolderSource)
    for images, evaluated in ((7, 8), (None, 10)):
        read.clear()
        summary = run(RunSettings(images=images, recalibrate=6, **settings, **MODEL), network)
        assert len(read) == evaluated
    assert summary["unreadable"]["images"] == [bad]
    assert "read some pictures differently" not in capsys.readouterr().err
    made = Run(tmp_path / "run")
    versions = {name: version for name, version in made.record.versions.items() if name != "pictures"}
    made.write_record(replace(made.record, versions=versions))
    made.adopt(network).images()
    assert f"{tmp_path / 'run'} was made by a version that read some pictures differently" in capsys.readouterr().err
    after = columns(read_outcomes(tmp_path / "run"))
    assert len(after) == 23
    pd.testing.assert_frame_equal(after.loc[before.index], before, check_exact=True)
    assert Run(tmp_path / "run").statistics_file.read_bytes() == statistics


@pytest.mark.nightly
@pytest.mark.slow
def test_a_study_is_extended_with_its_sets(tmp_path: Path, small_space: str) -> None:
    settings = {"space": small_space, "study": "fig7", "out": tmp_path / "run", "efficiency_space": small_space, **MODEL}
    counts = []
    for images in (4, 8):
        run(RunSettings(images=images, **settings))
        sets = sorted((tmp_path / "run" / "sets").iterdir())
        counts.append({path.name: len(read_outcomes(path)["image"]) for path in sets})
    assert counts[0].keys() == counts[1].keys() != set()
    assert all(counts[1][name] > count for name, count in counts[0].items())


def test_damage_is_seen_before_anything_is_added(tmp_path: Path, small_space: str) -> None:
    settings = {"space": small_space, "out": tmp_path / "run", **MODEL}
    evaluated(RunSettings(images=4, **settings))
    chunk = next((tmp_path / "run" / "outcomes.zarr" / "p_true" / "c").rglob("0"))
    chunk = chunk / "0" if chunk.is_dir() else chunk
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    before = all_bytes(tmp_path / "run")
    with pytest.raises(UserError, match="is damaged"):
        evaluated(RunSettings(images=8, **settings))
    assert all_bytes(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize("at", ["first rename", "second rename", "removal"])
def test_killed_between_any_two_steps_of_the_exchange(
    tmp_path: Path, small_space: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"space": small_space, "out": tmp_path / "run", **MODEL}
    evaluated(RunSettings(images=4, **settings))
    before = columns(read_outcomes(tmp_path / "run"))

    class Killed(BaseException):
        pass

    renames = []

    def rename(old: Path, new: Path) -> None:
        renames.append(new)
        if at == f"{['first', 'second'][len(renames) - 2]} rename" and len(renames) > 1:
            raise Killed
        os.replace(old, new)

    def recover(path: Path) -> None:
        if at == "removal" and path.with_name("outcomes.zarr.before").exists():
            raise Killed
        recover_store(path)

    with monkeypatch.context() as patched:
        patched.setattr(oracle.outcomes.os, "rename", rename)
        patched.setattr(oracle.outcomes, "recover_store", recover)
        renames.append(tmp_path)
        with pytest.raises(Killed):
            evaluated(RunSettings(images=8, **settings))
    with pytest.raises(UserError, match="is not finished"):
        Run.open(tmp_path / "run")
    evaluated(RunSettings(images=10, **settings))  # more than was asked for when it was killed
    assert [path.name for path in (tmp_path / "run").glob("outcomes*")] == ["outcomes.zarr"]
    after = columns(read_outcomes(tmp_path / "run"))
    assert len(after) == 20
    pd.testing.assert_frame_equal(after.loc[before.index], before, check_exact=True)


def entries(folder: Path) -> int:
    """Files and folders below, while another process writes and renames them."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


@pytest.mark.nightly
@pytest.mark.slow
def test_killed_anywhere_the_extension_ends_with_the_same_bytes(tmp_path: Path, small_space: str) -> None:
    evaluated(RunSettings(images=6, space=small_space, out=tmp_path / "first", **MODEL))
    outs = [tmp_path / name / "run" for name in ("whole", "killed")]
    for out in outs:
        shutil.copytree(tmp_path / "first", out)
    arguments = ("--images", 40, "--space", small_space, "--region", 4, "--out")
    subprocess.run(command(*arguments, outs[0]), env=environment(), check=True, capture_output=True, timeout=1800)
    store = outs[1] / "outcomes.zarr"
    for _ in range(4):
        known = entries(store)
        process = subprocess.Popen(command(*arguments, outs[1]), env=environment(), stderr=subprocess.DEVNULL)
        while process.poll() is None and entries(store) < known + 9:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(*arguments, outs[1]), env=environment(), check=True, capture_output=True, timeout=1800)
    assert all_bytes(store) == all_bytes(outs[0] / "outcomes.zarr")
