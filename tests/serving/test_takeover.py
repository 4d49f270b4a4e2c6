"""A real server of two workers that takes over new runs under load, with a shadow beside the active policy."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from oracle.run_folder import RunFolder
from selector.shipped import SHIPPED
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from tests.serving.conftest import serving, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.server]

KEY = "a-key-of-operators"
HEADERS = {"X-API-Key": KEY}
Scenes = tuple[list[bytes], np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, deployment: Deployment) -> Path:
    """Copies of a run under names of their own, with its graphs, and a link to the first."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("first", "second", "damaged", "others"):
        shutil.copytree(SHIPPED["matched"], folder / name)
    graph = next((folder / "damaged" / "policies" / "cascade").glob("*.safetensors"))
    graph.write_bytes(graph.read_bytes()[:-1])
    run = RunFolder(folder / "others")
    run.write_record(replace(run.record, class_names=run.record.class_names[::-1]))
    (folder / "current").symlink_to(folder / "first")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    settings = {"network": folder / "current", "operator_keys": KEY, "shadow_policy": "default", "shadow_share": 1}
    settings |= {"feedback_per_minute": 600}
    with (
        serving(folder / "server", workers=2, threads=1, runtime="onnxruntime", **settings) as (address, process),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client, psutil.Process(process.pid)


def lead_to(folder: Path, name: str) -> None:
    (folder / "next").symlink_to(folder / name)
    os.replace(folder / "next", folder / "current")


def networks(client: httpx.Client) -> set[str]:
    said = client.get("/admin/reload", headers=HEADERS).json()
    assert len(said["workers"]) == 2, said
    return {worker["network"] for worker in said["workers"].values()}


def until(true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_answers_are_those_without_a_shadow(
    server: tuple[httpx.Client, psutil.Process], scenes: Scenes, deployment: Deployment, images: np.ndarray
) -> None:
    client, _ = server
    expected = answer(deployment, images, [deployment.active] * len(images))
    labels = Counter[bool]()
    for picture, true, wanted in zip(*scenes, expected, strict=True):
        found = client.post("/v1/classify", files={"image": picture}).json()
        assert found["predictions"][0]["index"] == wanted.predicted
        assert found["configuration"]["id"] == wanted.configuration.id
        assert found["gmacs"] == pytest.approx(wanted.macs / 1e9), "the shadow's cost is its own"
        told = client.post("/v1/feedback", json={"id": found["id"], "label": int(true)}).json()
        labels[told["right"]] += 1
    until(lambda: sum(row["labelled"] for row in client.get("/v1/gap").json()["live"]["shadowed"]) >= 40)
    (row,) = client.get("/v1/gap").json()["live"]["shadowed"]
    assert (row["policy"], row["shadow"]) == (deployment.active.label, "default")
    assert row["gmacs"]["shadow"] == pytest.approx(float(deployment.costs.default) / 1e9)
    assert row["gmacs"]["policy"] < row["gmacs"]["shadow"]
    assert row["agreement"] > 0.8
    assert row["difference_ci"][0] <= row["difference"] <= row["difference_ci"][1]
    assert row["difference"] == pytest.approx(row["cases"]["shadow"]["accuracy"] - row["cases"]["policy"]["accuracy"])
    text = client.get("/metrics").text
    assert 'serving_shadow_images_total{outcome="answered",shadow="default"}' in text
    assert 'serving_images_total{policy="default"}' not in text, "nobody asked for it"


def test_a_client_has_its_rate_once_whichever_worker_it_reaches(server: tuple[httpx.Client, psutil.Process]) -> None:
    client, _ = server

    began = time.monotonic()
    each_its_own = httpx.Limits(max_keepalive_connections=0)  # connection, which any worker may accept
    with httpx.Client(base_url=client.base_url, limits=each_its_own, timeout=60) as http, ThreadPoolExecutor(8) as pool:

        def ask(_: int) -> int:
            return http.post("/v1/feedback", json={"id": "unknown", "label": 1}, headers=HEADERS).status_code

        statuses = Counter(pool.map(ask, range(250)))
    assert set(statuses) == {404, 429}
    burst, seconds = 100, time.monotonic() - began
    assert burst <= statuses[404] <= burst + 10 * seconds + 1


def test_runs_are_taken_over_under_load_and_nothing_is_lost(
    server: tuple[httpx.Client, psutil.Process], folder: Path, scenes: Scenes
) -> None:
    client, process = server
    before = client.post("/v1/classify", files={"image": scenes[0][0]}).json()
    assert before["made_by"]["network"] == "first"
    answered, ended = list[tuple[int, str]](), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as mine:
            while not ended.is_set():
                for count in (1, 12):
                    files = [("image" if count == 1 else "images", picture) for picture in scenes[0][:count]]
                    found = mine.post("/v1/classify" if count == 1 else "/v1/classify_batch", files=files)
                    body = found.json()
                    items = [body] if count == 1 else [item["answer"] for item in body.get("results", [])]
                    answered.extend((found.status_code, item["made_by"]["network"]) for item in items)
                    if found.status_code != 200 or len(items) != count:
                        answered.append((found.status_code, found.text))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        until(lambda: len(answered) > 100)
        lead_to(folder, "second")
        found = client.post("/admin/reload", headers=HEADERS)
        assert (found.status_code, found.json()["network"], len(found.json()["workers"])) == (200, "second", 2), found.text
        assert client.post("/v1/classify", files={"image": scenes[0][0]}).json()["made_by"]["network"] == "second"
        seen = len(answered)
        until(lambda: len(answered) > seen + 100)
        assert {network for _, network in answered[seen + 60 :]} == {"second"}, "whatever began before is answered by now"
        lead_to(folder, "first")
        process.send_signal(signal.SIGHUP)
        until(lambda: networks(client) == {"first"})
    finally:
        ended.set()
        for one in clients:
            one.join()
    statuses = Counter(status for status, _ in answered)
    assert set(statuses) == {200}, [text for status, text in answered if status != 200][:3]
    assert {network for _, network in answered} == {"first", "second"}
    lead_to(folder, "second")
    # 409 while the takeover that SIGHUP asked for is still being wound up
    until(lambda: client.post("/admin/reload", headers=HEADERS).status_code == 200)
    told = client.post("/v1/feedback", json={"id": before["id"], "label": 1})
    assert told.status_code == 200, "an answer of the run before"
    assert len(process.children()) == 2
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("name", "why"), [("damaged", "damaged"), ("others", "other names, or another order"), ("missing", "leads to no folder")]
)
def test_what_cannot_be_served_is_refused_whole(
    server: tuple[httpx.Client, psutil.Process], folder: Path, scenes: Scenes, name: str, why: str
) -> None:
    client, _ = server
    before = networks(client)
    lead_to(folder, name)
    refused = client.post("/admin/reload", headers=HEADERS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert refused.json()["error"]["message"].count("\n") == 0
    assert why in refused.json()["error"]["message"]
    assert networks(client) == before
    for _ in range(6):
        assert client.post("/v1/classify", files={"image": scenes[0][0]}).json()["made_by"]["network"] in before
    log = (folder / "server" / "log.txt").read_text().splitlines()
    assert len([line for line in log if "no other run is taken over" in line and why in line]) == 1


@pytest.mark.parametrize("name", ["damaged", "missing"])
def test_a_worker_that_is_killed_comes_back_with_what_the_others_serve(
    server: tuple[httpx.Client, psutil.Process], folder: Path, name: str
) -> None:
    client, process = server
    before = networks(client)
    lead_to(folder, name)  # nobody asked for it
    killed = process.children()[0]
    killed.kill()

    def back() -> bool:
        try:
            workers = client.get("/admin/reload", headers=HEADERS).json()["workers"]
            return len(workers) == 2 and str(killed.pid) not in workers
        except httpx.TransportError:  # the connection was the killed worker's
            return False

    until(back)
    wait_until_ready(client)
    assert networks(client) == before


def test_strangers_reload_nothing(server: tuple[httpx.Client, psutil.Process]) -> None:
    client, _ = server
    assert client.post("/admin/reload").status_code == 401
    assert client.get("/admin/reload", headers={"X-API-Key": "another-key-of-16"}).status_code == 401


@pytest.mark.nightly
def test_ten_takeovers_leave_no_memory_behind(
    server: tuple[httpx.Client, psutil.Process], folder: Path, scenes: Scenes
) -> None:
    client, process = server
    held = list[float]()
    for turn in range(14):
        lead_to(folder, "first" if turn % 2 else "second")
        assert client.post("/admin/reload", headers=HEADERS).status_code == 200
        for _ in range(10):
            files = [("images", picture) for picture in scenes[0][:16]]
            assert client.post("/v1/classify_batch", files=files).status_code == 200
        time.sleep(1)
        held.append(sum(worker.memory_info().rss for worker in process.children()) / 2**20)
    assert held[-1] < held[3] + 60, held
