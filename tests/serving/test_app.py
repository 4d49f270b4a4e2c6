"""The application by itself: no environment variables, no server, several in one process."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from dynamic.errors import UserError
from serving import worker
from serving.app import create_app
from serving.errors import Rejection
from serving.http.bodies import FILES
from serving.http.openapi import document
from serving.inference.deployment import Deployment
from serving.schema import Options
from serving.settings import ServingSettings
from serving.worker import Worker
from tests.serving.bad_inputs import picture
from tests.serving.conftest import metric, wait_until_ready, worker_of


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, deployment: Deployment) -> None:
    """Apps share the graphs that this process has open: a network takes seconds to load."""
    monkeypatch.setattr("serving.running.open_deployment", lambda settings: deployment)


def app_client(tmp_path: Path, name: str, **settings: Any) -> TestClient:
    return TestClient(create_app(ServingSettings(device="cpu", database=f"sqlite:///{tmp_path}/{name}.db", **settings)))


def test_two_apps_of_one_process_have_nothing_in_common(tmp_path: Path, opened: None) -> None:
    with (
        app_client(tmp_path, "one", max_images=2) as one,
        app_client(tmp_path, "two", max_images=4) as two,
    ):
        for client in (one, two):
            wait_until_ready(client)
        files = [("images", picture())] * 3
        assert one.post("/v1/classify_batch", files=files).status_code == 413
        answers = two.post("/v1/classify_batch", files=files).json()["results"]
        label = {"id": answers[0]["answer"]["id"], "label": 1}
        assert one.post("/v1/feedback", json=label).status_code == 503, "not recorded there"
        assert two.post("/v1/feedback", json=label).status_code == 200
        worker_of(one).readiness.publish("draining")
        assert [client.get("/readyz").status_code for client in (one, two)] == [503, 200]
    with one:  # the same again
        wait_until_ready(one)
        assert one.post("/v1/classify", files={"image": picture()}).status_code == 200


def test_an_app_whose_batcher_keeps_dying_is_not_ready_and_leaves_the_process_alone(
    tmp_path: Path, opened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.operation.supervision.Backoff.pauses", lambda backoff: iter([0.0] * 5))
    with app_client(tmp_path, "dying") as dying, app_client(tmp_path, "well") as well:
        for client in (dying, well):
            wait_until_ready(client)
        batcher = worker_of(dying).classifier.batcher
        monkeypatch.setattr(batcher, "_let_fill", lambda: 1 / 0)
        for client, status in ((dying, 503), (well, 200)):
            assert client.post("/v1/classify", files={"image": picture()}).status_code == status
            assert client.get("/readyz").status_code == status


def test_while_it_drains_every_answer_is_its_connection_s_last(tmp_path: Path, opened: None) -> None:
    with app_client(tmp_path, "draining") as http:
        wait_until_ready(http)
        asks = [("GET", "/v1/network", {}), ("GET", "/nothing", {}), ("GET", "/ui", {}), ("GET", "/livez", {})]
        asks += [("POST", "/v1/classify", {"files": {"image": content}}) for content in (picture(), b"none")]
        asks.append(("POST", "/admin/reload", {}))
        before = [http.request(method, path, **more) for method, path, more in asks]
        assert [response.headers.get("connection") for response in before] == [None] * len(asks)
        worker_of(http).readiness.publish("draining")
        after = [http.request(method, path, **more) for method, path, more in asks]
        assert [response.headers.get("connection") for response in after] == ["close"] * len(asks)
        assert [response.status_code for response in after] == [response.status_code for response in before]
        readiness = http.get("/readyz")
        assert (readiness.status_code, readiness.headers["connection"]) == (503, "close")


def test_no_answer_names_the_host_that_a_client_made_up(client: TestClient) -> None:
    response = client.get("/v1/classify/", headers={"Host": "evil.example"}, follow_redirects=False)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert "evil" not in str(response.headers) + response.text
    assert metric(client, "serving_worker_starts_total") >= 1


def test_pages_and_the_document_name_the_same_addresses_and_options(client: TestClient) -> None:
    app = create_app(ServingSettings(device="cpu"))
    paths = document()["paths"]
    assert set(paths) == {route.path for route in app.routes if isinstance(route, Route)}
    for path, field in FILES.items():
        schema = paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert set(schema["properties"]) == {field, *Options.model_fields}
    sent = set(re.findall(r'form\.append\("(\w+)"', client.get("/ui").text))
    assert {"image", "policy", "keep"} <= sent <= {"image", *Options.model_fields}


@pytest.mark.slow
def test_a_database_that_comes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    class Opening:
        deployment = SimpleNamespace(name="n", active=SimpleNamespace(policy="p", dial=None), why_active="w")
        batcher = SimpleNamespace(failed=False)

        @classmethod
        async def open(cls, settings: ServingSettings, give_up: object) -> Opening:
            tries.append(settings)
            if len(tries) < 2:
                raise UserError("SERVING_DATABASE cannot be opened")
            return cls()

    async def start() -> None:
        state = Worker(ServingSettings(device="cpu"))
        await state.start()
        await state._tried.wait()
        with pytest.raises(Rejection, match="tries again"):
            _ = state.classifier
        assert not state.ready
        assert state._loading is not None
        await asyncio.wait_for(state._loading, 20)
        assert state.ready
        state.readiness.withdraw()

    monkeypatch.setattr(worker, "Classifier", Opening)
    asyncio.run(start())
    assert len(tries) == 2
