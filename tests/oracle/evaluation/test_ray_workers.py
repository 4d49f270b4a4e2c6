"""Work on real Ray workers ends with the bytes of one process, whatever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from dynamic import UserError
from oracle.evaluation import evaluate, ray_workers
from oracle.evaluation.collect import collect, collect_all, open_collection
from oracle.evaluation.evaluate import OutcomesJob, WalkSize
from oracle.evaluation.jobs import Task
from oracle.evaluation.portable import PortableTask
from oracle.evaluation.ray_workers import RayWorkers
from oracle.evaluation.ray_workers import cluster as connected
from oracle.outcomes import read_outcomes
from oracle.pipeline import exact_bounds
from oracle.ray_settings import RaySettings
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.observing import observe_run
from selector.observation import observe
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
    monkeypatch.setenv("RAY_worker_niceness", "0")
    nodes = Cluster()
    for _ in range(3):
        nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
    monkeypatch.delenv("PYTHONPATH")
    yield nodes
    nodes.shutdown()


@pytest.mark.slow
def test_every_kind_of_work_on_ray_is_that_of_one_process(
    tmp_path: Path, small_space: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Several sets at once, one with statistics of two batches; exact bounds; observations in three blocks.

    Workers on this machine yield to other work no more than one process does.
    """
    monkeypatch.setattr(observe, "BLOCK", 4)
    monkeypatch.setattr(evaluate, "free_memory", lambda _: 4 * 2**30)  # what runs at once must not depend on other work
    common: dict[str, Any] = {"space": small_space, "images": 6, "region": 2}
    on_ray: dict[str, Any] = {"ray": "local", "ray_workers": 1}
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    with connected(RunSettings(ray="local")):
        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
        for name, where in (("one", {}), ("ray", on_ray)):
            folder = tmp_path / name
            sets = [
                open_collection(RunSettings(**common, **where, out=folder / "plain")),
                open_collection(RunSettings(**common, **where, recalibrate=130, out=folder / "recalibrated")),
                open_collection(RunSettings(**common, **where, regime="wide", out=folder / "wide")),
            ]
            if where:
                collect_all(sets)
            else:
                for one in sets:
                    collect(one)
            exact_bounds(RunSettings(**common, **where, bounds_only=True, out=folder / "bounds"))
            opened = Run.open(folder / "recalibrated")
            outcomes, ray_settings = opened.outcomes(), RaySettings(**where)
            observe_run(opened, opened.images(), outcomes, opened.configurations, opened.observations, ray=ray_settings)
    assert not ray.is_initialized()
    assert capfd.readouterr().err.count("1 worker]") >= 4
    assert len(list((tmp_path / "ray" / "recalibrated" / "observations").glob("*/*.safetensors"))) == 3
    assert all_bytes(tmp_path / "ray") == all_bytes(tmp_path / "one")


def test_without_the_extra_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'learned-selector\[ray\]'"), connected(RunSettings(ray="local")):
        pass


def test_a_machine_too_busy_to_start_ray_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because\nit is busy.")

    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # which is set where it is not
    line = r"^--ray local: Ray did not start \(The current node timed out during startup[^\n]*\): [^\n]*$"
    with pytest.raises(UserError, match=line), connected(RunSettings(ray="local")):
        pass


@pytest.mark.nightly
def test_workers_of_another_kind_are_refused_and_none_is_left(
    tmp_path: Path, small_space: str, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RunSettings(space=small_space, images=4, ray=cluster.address, device="cpu", out=tmp_path / "run")
    opened = open_collection(settings)
    job = OutcomesJob(configurations=opened.union, size=WalkSize(1, 1), dtype="float32", threads=1)
    task = Task(settings=settings, network=opened.network, source=opened.source, job=job, regions=[np.arange(1)] * 8)
    other = replace(PortableTask.of(task), kind="cpu of tomorrow")
    monkeypatch.setattr(ray_workers.PortableTask, "of", lambda _: other)
    told: list[str] = []
    with (
        connected(settings),
        RayWorkers([task], settings, told.append, lambda _: None) as workers,
        pytest.raises(UserError, match=r"no worker of the cluster can do this: .*the run computes on cpu of tomorrow"),
    ):
        workers.events()
    left_out = [line for line in told if "left out" in line]  # a slow machine is also told what is waited for
    assert len(left_out) == 3  # one a machine: the places of the refused are not filled again


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
    options = ("--space", small_space, "--images", 300, "--region", 2, "--memory-gib", 1)
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


@pytest.mark.nightly
def test_bounds_and_observations_survive_machines_and_drivers_too(tmp_path: Path, small_space: str, cluster: Any) -> None:
    """A machine is killed, then the driver, which goes on in one process, to the same bytes as if it had been alone."""
    options = ("--space", small_space, "--images", 400, "--region", 2, "--memory-gib", 1)
    for name in ("whole", "killed"):
        made = run_command(*options, "--out", tmp_path / name)
        assert made.returncode == 0, made.stderr
    steps = {
        "bounds": ("oracle.run", (*options, "--bounds-only"), "bounds/small-0*.parquet", 15),
        "train": ("selector.train", ("--policies", "neighbours"), "observations/*/*.safetensors", 1),
    }
    for module, arguments, files, more in steps.values():
        where = {name: (("--out",) if module == "oracle.run" else ()) + (tmp_path / name,) for name in ("whole", "killed")}
        alone = run_command(*arguments, *where["whole"], module=module)
        assert alone.returncode == 0, alone.stderr
        driver = subprocess.Popen(
            command(*arguments, *where["killed"], "--ray", cluster.address, module=module),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        for killed in ("machine", "driver"):
            wanted = len(list((tmp_path / "killed").glob(files))) + more
            while len(list((tmp_path / "killed").glob(files))) < wanted:
                assert driver.poll() is None, "it ended before it could be killed"
                time.sleep(0.005)
            if killed == "machine":
                cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
                cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        last = run_command(*arguments, *where["killed"], module=module)
        assert last.returncode == 0, last.stderr
    same = ("bounds", "bounds.json", "observations", "policies")
    for name in same:
        whole, killed = (tmp_path / folder / name for folder in ("whole", "killed"))
        if whole.is_dir():
            assert all_bytes(killed) == all_bytes(whole)
        else:
            assert killed.read_bytes() == whole.read_bytes()
