"""The real thing: ``bentoml serve`` with two workers, and clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.serving.bad_inputs import bad_requests
from tests.serving.by_schema import explore
from tests.serving.conftest import CHROMIUM, metric, serving, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.server]

Scenes = tuple[list[bytes], np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with serving(folder, workers=2, threads=1, max_images=32) as running:
        yield running


@pytest.fixture
def http(server: tuple[str, subprocess.Popen[bytes]]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[0], timeout=30) as client:
        wait_until_ready(client)
        yield client


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if "_bentoml_impl.worker.service" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_picture_gets_a_typed_answer(http: httpx.Client, scenes: Scenes) -> None:
    from serving.schema import Answer

    response = http.post("/v1/classify", files={"image": ("cat.png", scenes[0][0])}, data={"top_k": "3"})
    assert response.status_code == 200
    answer = Answer.model_validate(response.json())
    assert len(answer.predictions) == 3
    assert answer.policy == "cascade"
    assert answer.default_gmacs == pytest.approx(0.051, rel=0.01)
    assert [layer.layer for layer in answer.configuration.layers] == ["A", "B", "C", "D", "E"]
    assert response.headers["X-Request-ID"] == answer.id


def test_a_batch_answers_each_image_and_a_bad_one_harms_nobody(http: httpx.Client, scenes: Scenes) -> None:
    files = [("images", (f"{n}.png", data)) for n, data in enumerate(scenes[0][:20])]
    whole = http.post("/v1/classify_batch", files=files).json()["results"]
    files.insert(7, ("images", ("bad.png", scenes[0][3][:150])))
    with_bad = http.post("/v1/classify_batch", files=files).json()["results"]
    assert with_bad[7]["answer"] is None
    assert with_bad[7]["error"]["code"] == "bad_image"
    del with_bad[7]
    for mine, theirs in zip(whole, with_bad, strict=True):
        assert mine["answer"]["configuration"] == theirs["answer"]["configuration"]
        assert mine["answer"]["gmacs"] == theirs["answer"]["gmacs"]
        for a, b in zip(mine["answer"]["predictions"], theirs["answer"]["predictions"], strict=True):
            assert a["probability"] == pytest.approx(b["probability"], abs=2e-3)
    assert len({r["answer"]["configuration"]["id"] for r in whole}) > 1, "each image runs its own"


def test_bentoml_s_own_client_works(server: tuple[str, subprocess.Popen[bytes]], scenes: Scenes, tmp_path: Path) -> None:
    import bentoml

    path = tmp_path / "scene.png"
    path.write_bytes(scenes[0][0])
    with bentoml.SyncHTTPClient(server[0]) as client:
        answer = client.classify(path, policy="default", top_k=2)
        batch = client.classify_batch([path, path])
        stored = client.feedback(id=answer["id"], label="ankle boot")
    assert answer["policy"] == "default"
    assert len(answer["predictions"]) == 2
    assert len(batch["results"]) == 2
    assert stored["index"] == 9


def test_feedback_is_found_by_every_worker_and_moves_the_live_gap(http: httpx.Client, scenes: Scenes) -> None:
    before = http.get("/v1/gap").json()["live"]
    for data, label in zip(scenes[0][:8], scenes[1], strict=False):
        with httpx.Client(base_url=http.base_url, timeout=30) as fresh:  # another connection, perhaps another worker
            answer = fresh.post("/v1/classify", files={"image": data}, data={"keep": "true"}).json()
        assert answer["kept_seconds"] > 0
        stored = http.post("/v1/feedback", json={"id": answer["id"], "label": str(label)})
        assert stored.status_code == 200
        assert stored.json()["right"] == (answer["predictions"][0]["index"] == label)
    end = time.monotonic() + 120
    while (live := http.get("/v1/gap").json()["live"])["evaluated"] < before["evaluated"] + 8:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert live["labelled"] == before["labelled"] + 8
    cases = next(row for row in live["compared"] if row["policy"].startswith("cascade"))["cases"]
    assert cases["oracle"]["accuracy"] >= max(cases["default"]["accuracy"], cases["policy"]["accuracy"])
    metrics = http.get("/metrics").text
    assert re.search(r'serving_live_accuracy\{policy="cascade@[\d.]+",who="oracle"\}', metrics)


def test_metrics_count_over_all_workers(http: httpx.Client, scenes: Scenes) -> None:
    def total(name: str) -> float:
        lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    names = (
        "serving_images_total",
        "serving_gmacs_default_total",
        "serving_configurations_total",
        "serving_rejections_total",
    )
    before = [total(name) for name in names]
    for _ in range(20):
        with httpx.Client(base_url=http.base_url, timeout=30) as fresh:
            fresh.post("/v1/classify", files={"image": scenes[0][0]})
    http.post("/v1/classify", files={"image": b"nothing"})
    assert [total(name) - b for name, b in zip(names, before, strict=True)] == [
        20,
        pytest.approx(20 * 0.051, rel=0.01),
        20,
        1,
    ]
    assert total("serving_ready") == 2
    assert total("serving_gmacs_saved") == pytest.approx(
        total("serving_gmacs_default_total") - total("serving_gmacs_total"), rel=1e-3
    )
    for name in ("serving_request_seconds_bucket", "serving_batch_images_bucket", "serving_queue_images"):
        assert name in http.get("/metrics").text
    http.get("/some/strangers/path")
    assert "strangers" not in http.get("/metrics").text


def test_the_log_is_json_lines_with_request_ids(http: httpx.Client, folder: Path, scenes: Scenes) -> None:
    answer = http.post("/v1/classify", files={"image": scenes[0][0]}, headers={"X-Request-ID": "mine"}).json()
    time.sleep(0.3)
    lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines() if line.startswith("{")]
    line = next(line for line in lines if line.get("id") == answer["id"])
    assert (line["message"], line["status"], line["policy"], line["client_id"]) == ("request", 200, "cascade", "mine")


def test_bad_inputs_leave_the_real_server_unmoved(http: httpx.Client) -> None:
    for bad in bad_requests()[::9]:
        assert 400 <= http.post(bad.path, **bad.arguments).status_code < 500, bad.name
    assert http.get("/readyz").status_code == 200


def test_the_openapi_document_names_every_answer(http: httpx.Client) -> None:
    found = http.get("/docs.json").json()
    responses = found["paths"]["/v1/classify"]["post"]["responses"]
    assert {"200", "400", "401", "403", "408", "413", "415", "422", "429", "431", "503"} <= responses.keys()
    for path, methods in found["paths"].items():
        for operation in methods.values():
            assert {"400", "408", "431", "503"} <= operation["responses"].keys(), path
    assert set(found["components"]["schemas"]) >= {"Answer", "BatchAnswer", "Failure", "Feedback"}
    assert "googletagmanager" not in http.get("/ui").text
    assert http.get("/").headers["location"] == "ui"


def test_schemathesis_finds_nothing(http: httpx.Client, tmp_path: Path) -> None:
    """With few examples; tests/serving/test_by_schema.py has more, nightly."""
    explore(str(http.base_url), tmp_path, examples=6)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(server: tuple[str, subprocess.Popen[bytes]], scenes: Scenes, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "scene.png"
    path.write_bytes(scenes[0][1])
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*flags.split(), "--disable-component-update"])
        page = browser.new_page(viewport={"width": 1240, "height": 1100})
        asked: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(f"{server[0]}/ui")
        page.wait_for_selector("body[data-ready=true]")
        assert page.locator("#chart svg circle").count() == 3
        assert page.locator("#rows tbody tr").count() == 4
        page.check("#keep")
        page.set_input_files("#file", str(path))
        page.wait_for_selector("#answers[data-done]", timeout=60_000)
        rows = page.locator("#answers tbody tr")
        assert rows.count() == 17
        assert rows.first.get_attribute("data-policy") == "cascade"
        assert re.search(r"As\d( k\d)?→Bs\d→Cs\d→Ds\d→Es\d", rows.first.inner_text().replace("\n", ""))
        assert page.locator("tr[data-policy=default]").inner_text().count("51.0 (100 %)") == 1
        assert page.locator("tr[data-policy=cheapest] .node.changed").count() == 2
        page.select_option("#truth", "pullover")
        page.click("#tell")
        page.wait_for_selector("#told:not(:empty)")
        assert "Stored: cascade was" in page.inner_text("#told")
        page.wait_for_selector("#compared tbody tr")
        (tmp_path / "bad.png").write_bytes(b"no picture")
        page.set_input_files("#file", str(tmp_path / "bad.png"))
        page.wait_for_selector("#problem:not(:empty)")
        assert "not a picture" in page.inner_text("#problem")
        page.screenshot(path=str(tmp_path / "ui.png"), full_page=True)
        browser.close()
    assert all(url.startswith((server[0], "blob:")) for url in asked)
    assert [p for p in problems if "415" not in p] == []


def test_a_killed_worker_under_load_comes_back_and_acknowledged_feedback_stays(
    server: tuple[str, subprocess.Popen[bytes]], scenes: Scenes
) -> None:
    address, process = server
    acknowledged: list[str] = []
    lost: list[str] = []
    stop = threading.Event()

    def load(part: int) -> None:
        number = part
        while not stop.is_set():
            number += 4
            try:
                with httpx.Client(base_url=address, timeout=20) as client:
                    image, label = scenes[0][number % 48], int(scenes[1][number % 48])
                    answer = client.post("/v1/classify", files={"image": image})
                    if answer.status_code == 200:
                        stored = client.post("/v1/feedback", json={"id": answer.json()["id"], "label": label})
                        if stored.status_code == 200:
                            acknowledged.append(answer.json()["id"])
                        elif stored.status_code != 503:
                            lost.append(stored.text)
                    elif answer.status_code != 503:
                        lost.append(answer.text)
            except httpx.TransportError:
                pass  # the killed worker's connections

    before = httpx.get(f"{address}/v1/gap", timeout=20).json()["live"]["labelled"]
    threads = [threading.Thread(target=load, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    victim = workers(process)[0]
    os.kill(victim.pid, signal.SIGKILL)
    at_kill = len(acknowledged)
    end = time.monotonic() + 60
    while len(alive := workers(process)) < 2 or victim.pid in [p.pid for p in alive]:
        assert time.monotonic() < end, "no new worker"
        time.sleep(0.2)
    while True:
        with httpx.Client(base_url=address) as client:
            if metric(client, "serving_ready") == 2:
                break
        assert time.monotonic() < end, "the new worker is not ready"
        time.sleep(0.5)
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert 0 < at_kill < len(acknowledged), "it went on"
    # A worker killed between its answer and its note of it cannot know that answer's id; nothing else may be refused.
    assert len(lost) <= 4, lost[:3]
    assert all("not_found" in text for text in lost)
    time.sleep(2.5)
    after = httpx.get(f"{address}/v1/gap", timeout=20).json()["live"]["labelled"]
    # A label may have been stored whose acknowledgement the killed worker could no longer send: one a client at most.
    assert len(acknowledged) <= after - before <= len(acknowledged) + 4


def test_ending_the_server_answers_what_it_accepted(folder: Path, scenes: Scenes) -> None:
    """Thirty batches wait or run when the server gets the signal to stop, and one upload was given up half-way."""
    count = 30
    with serving(folder / "ending", workers=1, threads=1, max_images=32, max_queue=2000) as (address, process):
        statuses: list[object] = []

        def ask() -> None:
            files = [("images", ("a.png", data)) for data in scenes[0][:32]]
            with httpx.Client(base_url=address, timeout=60) as client:
                try:
                    answer = client.post("/v1/classify_batch", files=files, data={"policy": "averaging"})
                    statuses.append((answer.status_code, len(answer.json()["results"])))
                except httpx.TransportError as error:
                    statuses.append(type(error).__name__)

        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half:
            head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\n"
            half.sendall(head + b"Content-Length: 1000\r\n\r\n--a\r\n")
            time.sleep(0.2)
        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 20
        with httpx.Client(base_url=address, timeout=20) as watching:
            while metric(watching, "serving_queue_images") < 200:
                assert time.monotonic() < end, "the queue never filled"
                time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        process.wait(40)
        assert time.monotonic() - began < 30
    # Who was still sending may find the door closed; whoever was accepted has all answers.
    assert statuses.count((200, 32)) >= count // 2
    assert set(statuses) <= {(200, 32), "RemoteProtocolError", "ReadError", "WriteError", "ConnectError"}
    lines = [json.loads(line) for line in (folder / "ending" / "log.txt").read_text().splitlines() if line.startswith("{")]
    answered = [line for line in lines if line["message"] == "request" and line.get("images") == 32]
    assert len(answered) == statuses.count((200, 32)), "nothing that was answered was lost on its way"
    assert lines[-1]["message"] == "stopped"
