"""A run on real Ray workers ends with the bytes of one process, whatever dies on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from dynamic import UserError
from oracle.evaluation.collect import open_collection
from oracle.evaluation.evaluate import WalkSize
from oracle.evaluation.portable import PortableEvaluation
from oracle.evaluation.ray_workers import RayWorkers
from oracle.evaluation.ray_workers import cluster as connected
from oracle.outcomes import read_outcomes
from oracle.pipeline import run
from oracle.settings import RunSettings
from tests.oracle.conftest import all_bytes, command, environment, run_command
from tests.run_folders import CLASSES, photograph, write_space

pytestmark = pytest.mark.filterwarnings("default")  # those of Ray

KILLER = "killer.png"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three machines of one core on this one; a file called KILLER ends whatever process decodes it there."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, PIL.Image\n"
        "opened = PIL.Image.open\n"
        f"PIL.Image.open = lambda path: os._exit(1) if str(path).endswith({KILLER!r}) else opened(path)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{Path.cwd()}")
    nodes = Cluster()
    for _ in range(3):
        nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
    monkeypatch.delenv("PYTHONPATH")
    yield nodes
    nodes.shutdown()


@pytest.mark.slow
def test_a_run_on_ray_is_the_run_of_one_process(tmp_path: Path, small_space: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name, where in (("one", {}), ("ray", {"ray": "local", "ray_workers": 1})):
        run(RunSettings(space=small_space, images=6, region=2, out=tmp_path / name, **where))  # type: ignore[arg-type]
    assert "1 worker]" in capfd.readouterr().err
    assert not ray.is_initialized()
    assert all_bytes(tmp_path / "ray") == all_bytes(tmp_path / "one")


def test_without_the_extra_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'learned-selector\[ray\]'"), connected(RunSettings(ray="local")):
        pass


@pytest.mark.nightly
def test_workers_of_another_kind_are_refused_and_none_is_left(tmp_path: Path, small_space: str, cluster: Any) -> None:
    settings = RunSettings(space=small_space, images=4, ray=cluster.address, device="cpu", out=tmp_path / "run")
    opened = open_collection(settings)
    portable = PortableEvaluation.of(settings, opened.network, opened.source, opened.union, WalkSize(1, 1), statistics=None)
    told: list[str] = []
    other = replace(portable, kind="cpu of tomorrow")
    with (
        connected(settings),
        RayWorkers(other, settings, 8, told.append, lambda _: None) as workers,
        pytest.raises(UserError, match=r"no worker of the cluster can do this: .*the run computes on cpu of tomorrow"),
    ):
        workers.events()
    assert len(told) == 3  # one a machine: the places of the refused are not filled again


@pytest.mark.nightly
def test_an_image_that_ends_every_worker_is_named_and_left_out(tmp_path: Path, cluster: Any) -> None:
    photos = tmp_path / "photos"
    for position, name in enumerate(CLASSES):
        (photos / name).mkdir(parents=True)
        for number in range(8):
            photograph(100 * position + number).save(photos / name / f"{name}-{number}.png")
    (photos / CLASSES[1] / f"{CLASSES[1]}-3.png").rename(photos / CLASSES[1] / KILLER)
    (tmp_path / "classes.json").write_text(json.dumps({name: position for position, name in enumerate(CLASSES)}))
    options = ("--space", write_space(tmp_path), "--dataset", "imagefolder", "--data-dir", photos, "--region", 8)
    options = (*options, "--class-map", tmp_path / "classes.json")
    done = run_command(*options, "--ray", cluster.address, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"skipped {CLASSES[1]}/{KILLER}: 3 workers that tried it alone ended without a word" in done.stderr
    found = read_outcomes(tmp_path / "run")
    assert found.attrs["unreadable"] == [f"{CLASSES[1]}/{KILLER}"]
    assert found.sizes["image"] == 3 * 8 - 1


@pytest.mark.nightly
def test_machines_and_drivers_die_and_the_bytes_stay_those_of_one_process(
    tmp_path: Path, small_space: str, cluster: Any
) -> None:
    options = ("--space", small_space, "--images", 300, "--region", 2)
    whole = run_command(*options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    status = out / "outcomes.zarr" / "status" / "c"
    on_ray = ("--ray", cluster.address)

    def regions() -> int:
        return len(list(status.iterdir())) if status.exists() else 0

    def started(*where: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(*options, *where, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )

    def until(process: subprocess.Popen[bytes], more: int) -> None:
        wanted = regions() + more
        while regions() < wanted:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)

    first = started(*on_ray)
    until(first, 20)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    until(first, 5)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    until(first, 20)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = started()
    until(second, 20)
    second.send_signal(signal.SIGKILL)
    second.wait()
    last = run_command(*options, *on_ray, "--out", out)
    assert last.returncode == 0, last.stderr
    assert all_bytes(out) == all_bytes(tmp_path / "whole")
