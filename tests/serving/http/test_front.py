"""The front door before an app of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.testclient import TestClient

from serving.http.asked import asked_of
from serving.http.front import FrontDoor
from serving.http.security import HEADERS
from serving.http.urgency import Urgency
from serving.schema import Options
from serving.settings import ServingSettings
from tests.serving.conftest import free_port

KEY, OPERATOR = "client-key-of-16", "operator-key-of-16"
BOTH = {"api_keys": (KEY,), "operator_keys": (OPERATOR,)}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says which options the front door has read; of some addresses what frameworks answer."""
    known = {"/v1/classify", "/v1/classify_batch", "/v1/feedback", "/v1/gap", "/v1/network", "/ui", "/metrics", "/readyz"}
    status, headers = (200, []) if scope["path"] in known else (404, [])
    if scope["path"] == "/ui":
        headers = [(b"content-security-policy", b"mine")]
    if scope["path"] == "/memory":
        raise MemoryError
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": asked_of(Request(scope)).options.model_dump_json().encode()})


@contextmanager
def client(**settings: Any) -> Iterator[TestClient]:
    front = FrontDoor(echo, ServingSettings(device="cpu", **settings), check_room=lambda: None)
    yield TestClient(front, raise_server_exceptions=False)


def refusal(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return response.status_code, body["error"]["code"]


PICTURE = {"image": ("a.png", b"bytes")}


def test_every_answer_has_the_headers_that_protect_it() -> None:
    with client() as http:
        for path in ("/ui", "/v1/gap", "/nothing", "/v1/gap?x=1", "/memory"):
            headers = http.get(path).headers
            for name, value in HEADERS.items():
                assert headers[name] == ("mine" if path == "/ui" and name.startswith("content-sec") else value)
            assert headers["x-request-id"]
        assert refusal(http.get("/memory")) == (503, "overloaded")


def test_fields_in_the_address_are_refused_not_ignored() -> None:
    with client() as http:
        assert refusal(http.post("/v1/classify?top_k=1", files=PICTURE)) == (422, "invalid")
        assert refusal(http.get("/v1/gap?policy=default")) == (422, "invalid")
        assert http.get("/metrics?name[]=a").status_code == 200


def test_only_allowed_hosts_are_answered_but_probes_always() -> None:
    with client(allowed_hosts="api.example.org,*.example.net") as http:
        for host, status in (("api.example.org:3000", 200), ("a.example.net", 200), ("example.net", 403), ("evil", 403)):
            assert http.get("/v1/gap", headers={"Host": host}).status_code == status
            assert http.get("/readyz", headers={"Host": host}).status_code == 200


def test_keys_open_what_they_should() -> None:
    with client(**BOTH, private_paths="/metrics,/v1/gap") as http:
        for path, stranger, known, operator in (
            ("/v1/network", 401, 200, 200),
            ("/metrics", 401, 403, 200),
            ("/v1/gap", 401, 403, 200),
            ("/admin/reload", 401, 403, 404),
            ("/ui", 200, 200, 200),
            ("/readyz", 200, 200, 200),
        ):
            assert http.get(path).status_code == stranger, path
            assert http.get(path, headers={"X-API-Key": KEY}).status_code == known, path
            assert http.get(path, headers={"Authorization": f"Bearer {OPERATOR}"}).status_code == operator, path
        response = http.post("/v1/classify", files=PICTURE, headers={"X-API-Key": "something-else"})
        assert refusal(response) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


def test_without_keys_only_what_is_private_is_closed() -> None:
    with client(operator_keys=OPERATOR, private_paths="/metrics") as http:
        assert http.get("/v1/gap").status_code == 200
        assert refusal(http.get("/metrics")) == (401, "unauthorized")
        assert http.get("/metrics", headers={"X-API-Key": OPERATOR}).status_code == 200
    with client() as http:
        assert http.get("/metrics", headers={"X-API-Key": "whatever"}).status_code == 200
        assert http.post("/admin/reload").status_code == 401


def test_the_log_names_keys_by_digest_and_never_whole(caplog: pytest.LogCaptureFixture) -> None:
    with client(**BOTH) as http, caplog.at_level("INFO", "serving"):
        http.get("/v1/gap", headers={"X-API-Key": KEY})
        http.get("/v1/gap", headers={"X-API-Key": "a-wrong-key-of-16"})
    facts = [record.facts for record in caplog.records]
    assert facts[0]["client"].startswith("key:")
    assert KEY not in str(facts)
    assert "wrong-key" not in str(facts)


def test_one_client_too_eager_is_told_when_to_come_again() -> None:
    with client(requests_per_minute=6, feedback_per_minute=12, api_keys=(KEY,), operator_keys=(OPERATOR,)) as http:
        mine, theirs = {"X-API-Key": KEY}, {"X-API-Key": OPERATOR}
        assert http.post("/v1/classify", files=PICTURE, headers=mine).status_code == 200
        response = http.post("/v1/classify_batch", files={"images": b"x"}, headers=mine)
        assert refusal(response) == (429, "rate_limited")
        assert 1 <= int(response.headers["retry-after"]) <= 10
        assert http.post("/v1/classify", files=PICTURE, headers=theirs).status_code == 200
        label = {"id": "x", "label": 1}
        assert [http.post("/v1/feedback", json=label, headers=mine).status_code for _ in range(3)] == [200, 200, 429]
        assert http.get("/v1/network", headers=mine).status_code == 200


@pytest.mark.parametrize("origins", ["https://app.example.org", "*"])
def test_pages_of_allowed_origins_may_call_and_read_refusals(origins: str) -> None:
    ours, theirs = {"Origin": "https://app.example.org"}, {"Origin": "https://evil.example"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    with client(cors_origins=origins, **BOTH) as http:
        preflight = http.options("/v1/classify", headers=ours | asks)
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "X-API-Key" in preflight.headers["access-control-allow-headers"]
        for response in (
            preflight,
            http.post("/v1/classify", headers=ours),
            http.get("/v1/gap", headers=ours | {"X-API-Key": KEY}),
        ):
            assert response.headers["access-control-allow-origin"] in ("*", "https://app.example.org")
            assert "X-Request-ID" in response.headers["access-control-expose-headers"]
        if origins != "*":
            for response in (http.options("/v1/classify", headers=theirs | asks), http.post("/v1/classify", headers=theirs)):
                assert "access-control-allow-origin" not in response.headers
                assert response.headers["vary"] == "Origin"
                assert refusal(response) == (401, "unauthorized")
    with client() as http:
        assert "access-control-allow-origin" not in http.get("/v1/gap", headers=ours).headers


def test_a_whole_request_reaches_the_app(scenes: Any) -> None:
    with client() as http:
        found = http.post("/v1/classify", files=PICTURE, data={"top_k": "3", "policy": '"cascade"'}).text
        assert Options.model_validate_json(found) == Options(top_k=3, policy="cascade")
        assert http.post("/v1/feedback", data={"id": "x", "label": "1"}, files={"a": b""}).status_code == 422


def test_how_urgent_a_request_is_reaches_what_answers_it() -> None:
    found: list[Urgency] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(asked_of(Request(scope)).urgency)
        await echo(scope, receive, send)

    front = FrontDoor(app, ServingSettings(device="cpu", operator_keys=(OPERATOR,)), check_room=lambda: None)
    http = TestClient(front)
    began = time.monotonic()
    for headers in ({}, {"X-Priority": "low", "X-Deadline-Ms": "50000"}, {"X-Priority": "high", "X-API-Key": OPERATOR}):
        assert http.post("/v1/classify", files=PICTURE, headers=headers).status_code == 200
    assert [urgency.priority for urgency in found] == [0, -1, 1]
    assert found[0] == Urgency()
    assert began + 50 <= found[1].deadline <= time.monotonic() + 50
    assert refusal(http.post("/v1/classify", files=PICTURE, headers={"X-Priority": "high"})) == (403, "forbidden")
    for wrong in ({"X-Priority": "9"}, {"X-Deadline-Ms": "0"}, {"X-Deadline-Ms": "1.5"}, {"X-Deadline-Ms": "9" * 5000}):
        assert refusal(http.post("/v1/classify_batch", files=PICTURE, headers=wrong)) == (422, "invalid")


class Slow:
    """An app that takes long, and notes what becomes of it."""

    def __init__(self) -> None:
        self.began, self.cancelled, self.done = 0, 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.began += 1
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.done += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def listening(front: FrontDoor, port: int) -> Iterator[None]:
    """A server of this front door in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(front, port=port, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def test_what_nobody_waits_for_is_given_up() -> None:
    app, port = Slow(), free_port()
    front = FrontDoor(app, ServingSettings(device="cpu"), check_room=lambda: None)
    with listening(front, port):
        request = httpx.Request("POST", f"http://127.0.0.1:{port}/v1/classify", files=PICTURE)
        head = b"POST /v1/classify HTTP/1.1\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(head + b"\r\n" + request.read())
            while not app.began:
                time.sleep(0.01)
        assert httpx.post(request.url, files=PICTURE).text == "ok"
        assert (app.began, app.cancelled, app.done) == (2, 1, 1)


def test_a_drain_that_begins_under_a_request_closes_its_connection_behind_the_answer() -> None:
    app, port, draining = Slow(), free_port(), threading.Event()
    front = FrontDoor(app, ServingSettings(device="cpu"), check_room=lambda: None, draining=draining.is_set)
    with listening(front, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        assert "connection" not in http.get("/v1/network").headers
        asking = threading.Thread(target=lambda: answers.append(http.get("/v1/network")))
        answers: list[httpx.Response] = []
        asking.start()
        while app.began < 2:
            time.sleep(0.01)
        draining.set()
        asking.join()
        assert (answers[0].text, answers[0].headers["connection"]) == ("ok", "close")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as kept:
            kept.sendall(b"GET /v1/gap HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"".join(iter(lambda: kept.recv(4096), b"")).endswith(b"ok"), "the server closes it, not the client"
