from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from dynamic.errors import UserError
from serving.inference.deployment import Deployment
from serving.inference.opening_ahead import OpeningAhead
from serving.inference.plans import Plan
from tests.serving.bad_inputs import picture
from tests.serving.conftest import worker_of


def wait_for(what: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def with_network(deployment: Deployment, open_all: Callable[..., bool]) -> Deployment:
    """The deployment, whose network opens otherwise."""
    network = SimpleNamespace(session=deployment.network.session, macs=deployment.network.macs, open_all=open_all)
    return dataclasses.replace(deployment, network=network)  # type: ignore[arg-type]


def test_a_warm_service_opens_what_other_policies_need(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = worker_of(client).classifier.deployment
    network: Any = deployment.network
    wait_for(lambda: len(network.network._graphs) == len(network.network.record.graphs))
    wait_for(lambda: "opening-ahead" not in [thread.name for thread in threading.enumerate()])
    loaded: list[object] = []
    monkeypatch.setattr(network.network._runtime, "load", lambda *asked: loaded.append(asked))
    monkeypatch.setattr("selector.policies.forest.small_graph", loaded.append)
    for name in deployment.policies:
        answer = client.post("/v1/classify", files={"image": picture()}, data={"policy": name})
        assert answer.status_code == 200, answer.text
    assert loaded == []


def test_it_stops_when_the_service_ends(deployment: Deployment, images: np.ndarray) -> None:
    begun = threading.Event()

    def for_ever(stopped: threading.Event, processes: int) -> bool:
        begun.set()
        return not stopped.wait(60)

    opening = OpeningAhead(with_network(deployment, for_ever), images[0], 1, idle=lambda: True)
    assert begun.wait(10)
    opening.close()
    assert not opening._thread.is_alive()


def test_it_waits_for_a_rest_but_not_for_ever(
    deployment: Deployment, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr("serving.inference.opening_ahead._PATIENCE", 0.05)
    monkeypatch.setattr("serving.inference.opening_ahead.answer", lambda *asked: ran.append(asked))
    asked: list[float] = []
    opening = OpeningAhead(deployment, images[0], 1, idle=lambda: asked.append(time.monotonic()) is not None)
    opening._thread.join(30)
    assert len(ran) == len(deployment.policies)
    assert len(asked) == 5 * len(ran)


@pytest.mark.parametrize("error", [UserError("compiled anew"), ValueError("a bug")])
def test_what_cannot_be_opened_is_said_and_left_to_who_needs_it(
    deployment: Deployment, images: np.ndarray, heard: list[logging.LogRecord], error: Exception
) -> None:
    def fails(stopped: threading.Event, processes: int) -> bool:
        raise error

    opening = OpeningAhead(with_network(deployment, fails), images[0], 1, idle=lambda: True)
    opening._thread.join(10)
    (record,) = heard
    assert (record.levelname, record.exc_info is None) == ("ERROR", isinstance(error, UserError))
    assert record.getMessage().startswith("not all is opened ahead")


@pytest.mark.parametrize("error", [UserError("damaged trees"), ValueError("a bug")])
def test_a_policy_that_fails_leaves_no_other_cold(
    deployment: Deployment,
    images: np.ndarray,
    heard: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    ran: list[str] = []
    first = next(iter(deployment.policies))

    def failing(deployment: Deployment, images: np.ndarray, plans: list[Plan]) -> None:
        ran.append(plans[0].policy)
        if ran[-1] == first:
            raise error

    monkeypatch.setattr("serving.inference.opening_ahead.answer", failing)
    opening = OpeningAhead(with_network(deployment, lambda *asked: True), images[0], 1, idle=lambda: True)
    opening._thread.join(10)
    assert ran == list(deployment.policies)
    (record,) = heard
    assert (record.levelname, record.exc_info is None) == ("ERROR", isinstance(error, UserError))
    assert record.getMessage().startswith(f"not all is opened ahead: {first}")
