"""What is sent to a worker opens there without the sender's files and evaluates the same bits, or is refused in one line."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dynamic
from dynamic import UserError
from oracle.evaluation.collect import Collection, open_collection
from oracle.evaluation.evaluate import OutcomesJob, Region, WalkSize
from oracle.evaluation.jobs import Task, done_here, load
from oracle.evaluation.portable import DATA_DIR, PortableTask
from oracle.settings import RunSettings
from tests.own_network import CODE
from tests.run_folders import CLASSES, photograph

SIZE = WalkSize(images=2, rows=16, walks=3)
ROWS = np.arange(5)


def task_of(collection: Collection) -> Task[Region]:
    job = OutcomesJob(configurations=collection.union, size=SIZE, dtype="float32", threads=torch.get_num_threads())
    return Task(settings=collection.settings, network=collection.network, source=collection.source, job=job, regions=[ROWS])


def sent(collection: Collection) -> PortableTask[Region]:
    received: PortableTask[Region] = pickle.loads(pickle.dumps(PortableTask.of(task_of(collection))))
    return received


def evaluated(portable: PortableTask[Region], cores: int) -> Region:
    source, compute = portable.open(cores)
    return compute(ROWS, load(source, ROWS))


def at_home(collection: Collection) -> Region:
    return next(done_here(task_of(collection)))


def require_equal(found: Region, expected: Region) -> None:
    assert np.array_equal(found.predicted, expected.predicted)
    assert found.p_true.tobytes() == expected.p_true.tobytes()
    assert found.problems == expected.problems


@pytest.fixture
def on_files(tmp_path: Path) -> Collection:
    """A network of one's own in a file, on photographs with a class map; one of them is broken."""
    for position, name in enumerate(CLASSES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            photograph(100 * position + number).save(tmp_path / "photos" / name / f"{name}-{number}.png")
    (tmp_path / "photos" / CLASSES[0] / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "map.json").write_text(json.dumps({name: 2 - position for position, name in enumerate(CLASSES)}))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "space.json").write_text('{"stride": [[2, 1], [2]]}')
    return open_collection(
        RunSettings(
            model=f"{tmp_path}/mine.py:build",
            dynamic_layers="first.conv,second.conv",
            resolution=32,
            dataset="imagefolder",
            data_dir=tmp_path / "photos",
            class_map=tmp_path / "map.json",
            space=str(tmp_path / "space.json"),
            device="cpu",
        )
    )


def test_it_needs_none_of_the_senders_files(tmp_path: Path, on_files: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, portable = at_home(on_files), sent(on_files)
    for gone in ("mine.py", "map.json", "space.json"):
        (tmp_path / gone).unlink()
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    monkeypatch.setenv(DATA_DIR, str(tmp_path / "elsewhere"))
    require_equal(evaluated(portable, cores=1), expected)


def test_other_images_or_another_device_are_refused(tmp_path: Path, on_files: Collection) -> None:
    portable = sent(on_files)
    with pytest.raises(UserError, match="here, the run computes on cpu of tomorrow: bits would differ"):
        replace(portable, kind="cpu of tomorrow").open(cores=1)
    photograph(7).save(tmp_path / "photos" / CLASSES[0] / "new.png")
    with pytest.raises(UserError, match=r"other images in .*photos here than where the run was started"):
        portable.open(cores=1)


def test_a_module_given_in_python_and_the_scenes_travel_too(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    (tmp_path / "own.json").write_text('{"dilation": [[1, 2]]}')
    settings = RunSettings(space=str(tmp_path / "own.json"), images=3, device="cpu")
    collection = open_collection(settings, dynamic.load(module, dynamic_layers=["0"]))
    require_equal(evaluated(sent(collection), cores=2), at_home(collection))


def test_images_left_out_leave_the_others_what_unreadable_ones_would(on_files: Collection) -> None:
    """``without`` and a broken file are one: the readable images are batched alike."""
    source, compute = sent(on_files).open(cores=3)
    batch = load(source, ROWS, {2: "ended its worker"})
    whole = load(source, ROWS)
    readable = whole.readable.copy()
    readable[2] = False
    assert batch.problems == whole.problems | {str(source.keys[2]): "ended its worker"}
    expected = compute(ROWS, replace(whole, readable=readable))
    require_equal(compute(ROWS, batch), replace(expected, problems=batch.problems))
