"""How long uploads that are attacks keep the event loop, in which every other client's request waits meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import uvicorn
from starlette.responses import JSONResponse

from serving.errors import Rejection
from serving.http.connections import ConnectionLimits, limit_connections
from serving.http.front import FrontDoor
from serving.inference.preparation import Preparation
from serving.schema import INPUT
from serving.settings import ServingSettings
from tests.serving.bad_inputs import picture
from tests.serving.conftest import free_port
from tests.serving.strange_pictures import costly, jpeg_of_scans, strange, text_bomb

BLOCKED = 0.2
"""Seconds of processor time in the loop's thread for one of its callbacks, at most."""


class Loop:
    """The longest callback of an event loop's thread; time of other threads and processes is not counted."""

    def __init__(self) -> None:
        self.thread, self.longest = 0, 0.0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        run = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            if threading.get_ident() == self.thread:
                self.longest = max(self.longest, time.thread_time() - began)

        patch.setattr(asyncio.Handle, "_run", timed)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Loop]]:
    """The front door and what decodes pictures, in the loop that is watched."""
    settings, watched = ServingSettings(device="cpu"), Loop()
    preparation: list[Preparation] = []

    async def prepare(scope: Any, receive: Any, send: Any) -> None:
        watched.thread = threading.get_ident()
        if not preparation:
            transform = lambda picture: np.asarray(picture.convert("RGB").resize((32, 32)))  # noqa: E731
            preparation.append(Preparation(transform, settings.max_megapixels, settings.max_decoded_megapixels))
        given = scope[INPUT]
        files = given.get("images") or [given["image"]]
        try:
            prepared = await preparation[0].prepare(files)
            if refused := [each for each in prepared if isinstance(each, Rejection)]:
                raise refused[0]
            answer: Any = JSONResponse({})
        except Rejection as rejection:
            answer = rejection.response()
        await answer(scope, receive, send)

    limit_connections(ConnectionLimits.of(settings))
    port = free_port()
    front = FrontDoor(prepare, settings, check_room=lambda: None)
    running = uvicorn.Server(uvicorn.Config(front, port=port, lifespan="off", log_config=None, loop="asyncio"))
    with pytest.MonkeyPatch.context() as patch:
        watched.install(patch)
        thread = threading.Thread(target=running.run)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}", watched
        running.should_exit = True
        thread.join(10)
    preparation[0].close()
    limit_connections(ConnectionLimits())


def ask(server: tuple[str, Loop], page: str, **arguments: Any) -> httpx.Response:
    """One request; it must not keep the loop, nor leave much memory taken."""
    address, loop = server
    httpx.post(f"{address}/v1/classify", files={"image": picture()}).raise_for_status()
    loop.longest, before = 0.0, psutil.Process().memory_info().rss
    response = httpx.post(f"{address}{page}", timeout=60, **arguments)
    assert loop.longest < BLOCKED
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    return response


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return strange() | costly()


@pytest.mark.parametrize("number", range(15))
def test_an_upload_that_is_an_attack_is_refused_without_keeping_the_loop(
    server: tuple[str, Loop], pictures: dict[str, bytes], number: int
) -> None:
    response = ask(server, "/v1/classify", files={"image": [*pictures.values()][number]})
    assert response.status_code in (413, 422)


@pytest.mark.parametrize("number", range(15, 19))
def test_a_file_that_is_slow_to_look_through_does_not_keep_the_loop(
    server: tuple[str, Loop], pictures: dict[str, bytes], number: int
) -> None:
    assert len(pictures) == 19
    assert ask(server, "/v1/classify", files={"image": [*pictures.values()][number]}).status_code in (200, 422)


@pytest.mark.parametrize(
    ("each", "status"),
    [(text_bomb(count=8), 422), (jpeg_of_scans(1000, 80), 413), (picture("JPEG", (60, 30)), 200)],
    ids=["bombs", "scans", "good"],
)
def test_neither_do_sixty_four_of_them(server: tuple[str, Loop], each: bytes, status: int) -> None:
    assert ask(server, "/v1/classify_batch", files=[("images", each)] * 64).status_code == status


@pytest.mark.parametrize(
    "body",
    [b"\r\n--" * (7 * 2**20), b"\r\n--a-" * (5 * 2**20), b"\r" * (28 * 2**20), b"--a\r\nX-A: b\r\n" * 2**20],
    ids=["half boundaries", "nearly boundaries", "ends of lines", "headers"],
)
def test_neither_does_a_form_of_what_is_nearly_a_boundary(server: tuple[str, Loop], body: bytes) -> None:
    head = b'--ab\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=ab"}
    content = head + body + b"\r\n--ab--\r\n"
    assert ask(server, "/v1/classify", content=content, headers=headers).status_code in (413, 415, 422, 400)
