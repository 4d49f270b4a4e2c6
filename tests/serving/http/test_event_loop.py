"""How long uploads that are attacks keep the event loop, in which every other client's request waits meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from serving.app import create_app
from serving.http.connections import ConnectionLimits, limit_connections
from serving.settings import ServingSettings
from tests.serving.bad_inputs import picture
from tests.serving.conftest import free_port, wait_until_ready
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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Loop]]:
    """The whole service, in a loop that is watched."""
    url = f"sqlite:///{tmp_path_factory.mktemp('loop')}/serving.db"
    settings, watched, port = ServingSettings(database=url, device="cpu", threads=1), Loop(), free_port()
    limit_connections(ConnectionLimits.of(settings))
    running = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_config=None, loop="asyncio"))
    with pytest.MonkeyPatch.context() as patch:
        watched.install(patch)
        thread = threading.Thread(target=running.run)
        thread.start()
        watched.thread = thread.ident or 0
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            wait_until_ready(http)
        yield f"http://127.0.0.1:{port}", watched
        running.should_exit = True
        thread.join(30)
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


@pytest.mark.parametrize("number", range(15, 20))
def test_a_file_that_is_slow_to_look_through_does_not_keep_the_loop(
    server: tuple[str, Loop], pictures: dict[str, bytes], number: int
) -> None:
    assert len(pictures) == 20
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
