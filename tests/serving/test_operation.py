"""Two real servers of one user, whose databases and ends are not as they should be."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.serving.conftest import metric, serving, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.server]

Server = tuple[str, subprocess.Popen[bytes]]
Scenes = tuple[list[bytes], np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def variables(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "home"))  # two servers of one user
        patch.setenv("TMPDIR", str(folder))
        yield


@pytest.fixture(scope="module")
def unwritable(folder: Path, variables: None) -> Iterator[Server]:
    """Two workers whose database cannot be made, on a server that drains."""
    database = "sqlite:////proc/nowhere/serving.db"
    with serving(folder / "unwritable", workers=2, threads=1, database=database, drain_seconds=3) as running:
        for _ in range(30):  # ready is ready: whichever worker a connection reaches
            assert httpx.get(f"{running[0]}/v1/network").status_code == 200
        yield running


@pytest.fixture(scope="module")
def without(folder: Path, variables: None) -> Iterator[Server]:
    """One worker that stores nothing."""
    with serving(folder / "without", workers=1, threads=1, database="none") as running:
        yield running


def classify(address: str, scenes: Scenes) -> httpx.Response:
    return httpx.post(f"{address}/v1/classify", files={"image": scenes[0][0]}, data={"keep": "true"}, timeout=30)


def test_a_database_that_cannot_be_written_does_not_stop_classification(
    unwritable: Server, folder: Path, scenes: Scenes
) -> None:
    address, _ = unwritable
    answer = classify(address, scenes)
    assert answer.status_code == 200
    told = httpx.post(f"{address}/v1/feedback", json={"id": answer.json()["id"], "label": 1}, timeout=30)
    assert (told.status_code, told.json()["error"]["code"]) == (503, "unavailable")
    with httpx.Client(base_url=address) as client:
        assert metric(client, "serving_database_up") == 0
        assert client.get("/readyz").status_code == 200
    time.sleep(2)
    log = (folder / "unwritable" / "log.txt").read_text()
    assert log.count("the database fails") == 2, "one line a worker"
    assert "Traceback" not in log


def test_a_server_without_a_database_answers_and_takes_no_labels(without: Server, scenes: Scenes) -> None:
    address, _ = without
    answer = classify(address, scenes)
    assert answer.status_code == 200
    assert answer.json()["kept_seconds"] is None
    told = httpx.post(f"{address}/v1/feedback", json={"id": answer.json()["id"], "label": 1}, timeout=30)
    assert told.status_code == 503
    assert "SERVING_DATABASE=none" in told.json()["error"]["message"]
    assert httpx.get(f"{address}/v1/gap", timeout=30).json()["live"]["labelled"] == 0


def test_two_servers_of_one_user_count_each_for_itself(unwritable: Server, without: Server, scenes: Scenes) -> None:
    def images(server: Server) -> float:
        text = httpx.get(f"{server[0]}/metrics").text
        return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("serving_images_total"))

    before = images(unwritable), images(without)
    for _ in range(3):
        assert classify(unwritable[0], scenes).status_code == 200
    assert (images(unwritable) - before[0], images(without) - before[1]) == (3, 0)
    for server, count in ((unwritable, 2), (without, 1)):
        with httpx.Client(base_url=server[0]) as client:
            assert metric(client, "serving_ready") == count


def test_a_killed_worker_counts_no_more_at_once(unwritable: Server) -> None:
    address, process = unwritable
    workers = [w for w in psutil.Process(process.pid).children() if "worker.service" in " ".join(w.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    with httpx.Client(base_url=address) as client:
        end = time.monotonic() + 5
        while True:
            try:
                if metric(client, "serving_ready") == 1:
                    break
            except httpx.TransportError:  # the connection was the killed worker's
                pass
            assert time.monotonic() < end
        wait_until_ready(client)


def test_a_server_that_ends_is_not_ready_first_and_still_answers(
    unwritable: Server, without: Server, folder: Path, scenes: Scenes
) -> None:
    address, process = unwritable
    with httpx.Client(base_url=address, timeout=20) as client:
        end = time.monotonic() + 60
        while metric(client, "serving_ready") < 2:  # one was killed
            assert time.monotonic() < end
            time.sleep(0.2)
        kept = client.get("/livez")
        assert "connection" not in kept.headers
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 3
        while httpx.get(f"{address}/readyz").status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.2)  # until the other worker has heard it too
        assert client.get("/v1/network").headers["connection"] == "close", "a kept connection is told to go elsewhere"
    answered = [classify(address, scenes).status_code for _ in range(5)]
    assert answered == [200] * 5, "while load balancers notice"
    process.wait(40)
    assert len(list(folder.glob("dynamic-classifier-*"))) == 1, "that of the other server"
    assert httpx.get(f"{without[0]}/readyz").status_code == 200


def test_workers_end_with_a_killed_supervisor(without: Server, folder: Path) -> None:
    """The last test: it ends the server."""
    address, process = without
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{address}/livez")
    assert list(folder.glob("dynamic-classifier-*")) == []
