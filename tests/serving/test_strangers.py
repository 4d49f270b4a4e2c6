"""What strangers do to a real server: uploads that are attacks, connections that stall, and the end of it all."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving.bad_inputs import picture
from tests.serving.conftest import metric, serving
from tests.serving.strange_pictures import strange, text_bomb

pytestmark = [pytest.mark.slow, pytest.mark.server]

Server = tuple[str, subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strangers")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    limits = {"upload_grace_seconds": 2, "header_seconds": 2, "max_uploads": 8, "end_seconds": 2, "reading_seconds": 60}
    with serving(folder, workers=1, threads=1, max_connections=60, **limits) as running:
        yield running


def connect(server: Server) -> socket.socket:
    host, port = server[0].removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def memory(server: Server) -> int:
    family = psutil.Process(server[1].pid).children(recursive=True)
    return max(process.memory_info().rss for process in family)


def test_an_upload_that_is_an_attack_is_refused_and_neither_blocks_nor_fattens_a_worker(server: Server) -> None:
    slowest, stop = [0.0], threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=server[0], timeout=30) as http:
            while not stop.wait(0.01):
                began = time.monotonic()
                assert http.get("/livez").status_code == 200
                slowest[0] = max(slowest[0], time.monotonic() - began)

    with httpx.Client(base_url=server[0], timeout=30) as http:
        assert http.post("/v1/classify", files={"image": picture()}).status_code == 200
        before = memory(server)
        prober = threading.Thread(target=probe)
        prober.start()
        for name, data in strange().items():
            response = http.post("/v1/classify", files={"image": data})
            assert response.status_code in (413, 422), name
        bombs = [("images", text_bomb(count=8))] * 64
        assert http.post("/v1/classify_batch", files=bombs).status_code == 422
        stop.set()
        prober.join()
        assert memory(server) - before < 100 * 2**20
    # Not a time that machines differ in: these uploads froze the loop for seconds each.
    assert slowest[0] < 2


def test_stalled_uploads_refuse_nobody_for_long(server: Server) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\n"
    stalled = [connect(server) for _ in range(8)]
    for one in stalled:
        one.sendall(head + b"Content-Length: 100000\r\n\r\n--a\r\n")
    time.sleep(1.2)
    assert httpx.post(f"{server[0]}/v1/classify", files={"image": picture()}, timeout=20).status_code == 200
    answers = [one.recv(10_000) for one in stalled]
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
    for one in stalled:
        one.close()


def test_silent_connections_are_cut_and_too_many_shut_nobody_out(server: Server, folder: Path) -> None:
    silent = [connect(server) for _ in range(100)]
    for one in silent[:50]:
        one.sendall(b"GET /livez HTTP/1.1\r\n")
    assert httpx.get(f"{server[0]}/livez", timeout=20).status_code == 200
    for one in silent:
        try:
            while one.recv(1000):
                pass
        except ConnectionResetError:
            pass
        one.close()
    with httpx.Client(base_url=server[0], timeout=20) as http:
        assert "serving_connections_cut_total" in http.get("/metrics").text
        assert metric(http, "serving_connections") < 60
    assert "too many connections" in (folder / "log.txt").read_text()


def test_refusals_of_the_server_below_have_the_one_shape(server: Server) -> None:
    for sent, status in ((b"hello\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: " + b"a" * 60_000, 431)):
        with connect(server) as one:
            one.sendall(sent)
            answer = b""
            while part := one.recv(10_000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_the_server_ends_in_time_whatever_clients_do(server: Server) -> None:
    """The last test of this module: one client reads nothing, one stalls its upload, one its head."""
    clients = [connect(server) for _ in range(3)]
    deaf, slow, headless = clients
    deaf.sendall(b"GET /ui HTTP/1.1\r\nHost: x\r\n\r\n" * 30)
    slow.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\n")
    slow.sendall(b"Content-Length: 100000\r\n\r\n--a\r\n")
    headless.sendall(b"GET / HTTP/1.1\r\n")
    time.sleep(0.5)
    server[1].send_signal(signal.SIGTERM)
    began = time.monotonic()
    server[1].wait(30)
    assert time.monotonic() - began < 20, "uvicorn waits for such clients without end"
    for one in clients:
        one.close()
