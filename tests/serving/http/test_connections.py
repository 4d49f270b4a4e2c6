from __future__ import annotations

import asyncio
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from serving.http.connections import (
    ConnectionLimits,
    LimitedProtocol,
    accept_one_at_a_time,
    limit_connections,
    tell_who_may_connect,
)
from serving.settings import ServingSettings
from tests.serving.conftest import free_port

LIMITS = ConnectionLimits(
    head_bytes=4096,
    head_seconds=0.4,
    keep_alive_seconds=0.8,
    unread_seconds=0.4,
    end_seconds=0.5,
    connections=8,
    pipelined=4,
)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Answers after a while, with many bytes."""

    def __init__(self) -> None:
        self.body, self.seconds, self.asked = b"ok", 0.0, 0

    async def __call__(self, scope, receive, send) -> None:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        headers = [(b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@contextmanager
def running(limits: ConnectionLimits = LIMITS) -> Iterator[tuple[App, tuple[str, int], uvicorn.Server]]:
    limit_connections(limits)
    app, address = App(), ("127.0.0.1", free_port())
    config = uvicorn.Config(app, host=address[0], port=address[1], lifespan="off", log_config=None, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield app, address, server
    finally:
        server.should_exit = True
        thread.join(20)
        limit_connections(ConnectionLimits())
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[App, tuple[str, int], uvicorn.Server]]:
    with running() as found:
        yield found


@pytest.fixture
def connect(server: tuple[App, tuple[str, int], uvicorn.Server]) -> Iterator[object]:
    opened: list[socket.socket] = []

    def open_one(receives: int | None = None) -> socket.socket:
        opened.append(socket.socket())
        if receives is not None:
            opened[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        opened[-1].settimeout(10)
        opened[-1].connect(server[1])
        return opened[-1]

    server[0].__init__()
    yield open_one
    for one in opened:
        one.close()
    while server[2].server_state.connections:
        time.sleep(0.01)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answered(connection: socket.socket) -> bool:
    """Whether the next bytes are a whole answer."""
    found = b""
    while not found.endswith(b"ok") and (part := connection.recv(1000)):
        found += part
    return found.endswith(b"ok") and found.count(b"HTTP/1.1 200") == 1


def code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    assert b"x-content-type-options: nosniff" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_a_request_is_answered_and_the_connection_stays(connect) -> None:
    one = connect()
    for _ in range(3):
        one.sendall(GET)
        assert answered(one)


@pytest.mark.parametrize("head", [b"X-A: " + b"a" * 9000, b"X-A: b\r\n" * 900, b""])
def test_a_head_over_the_limit_is_refused_before_it_is_whole(connect, head: bytes) -> None:
    one = connect()
    line = b"GET / HTTP/1.1\r\n" if head else b"GET /" + b"a" * 9000
    for at in range(0, 7000, 1000):
        one.sendall((line + head)[at : at + 1000])
        if select.select([one], [], [], 0.03)[0]:
            break
    assert at <= 5000
    assert code(rest(one)) == (431, "head_too_large")


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_a_large_head_in_one_piece_is_refused_too(connect, server, end: bytes) -> None:
    one = connect()
    one.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 9000 + end)
    assert code(rest(one)) == (431, "head_too_large")
    assert server[0].asked == 0


def test_what_is_no_http_gets_the_one_shape(connect) -> None:
    one = connect()
    one.sendall(b"hello\r\n\r\n")
    assert code(rest(one)) == (400, "malformed")


def test_a_head_that_does_not_end_is_refused(connect) -> None:
    one = connect()
    began = time.monotonic()
    one.sendall(b"GET / HTTP/1.1\r\n")
    assert code(rest(one)) == (408, "timeout")
    assert time.monotonic() - began < 5


def test_a_connection_is_kept_for_the_next_request_longer_than_a_new_one_may_be_silent(connect) -> None:
    """A load balancer's idle connections: it must be the one who closes them."""
    one, new = connect(), connect()
    one.sendall(GET)
    assert answered(one)
    assert rest(new) == b""  # closed after head_seconds
    one.sendall(GET[:5])
    time.sleep(0.2)
    one.sendall(GET[5:])
    assert answered(one)


@pytest.mark.parametrize("first", [b"", GET])
def test_a_connection_that_sends_no_request_is_closed(connect, first: bytes) -> None:
    """Also where it goes on sending what is none."""
    one = connect()
    one.sendall(first)
    end = time.monotonic() + 10
    try:
        while one.recv(1000) and time.monotonic() < end:
            one.sendall(b"\r\n")
    except (ConnectionError, BrokenPipeError):
        pass
    assert time.monotonic() < end


def test_a_client_that_does_not_read_is_cut_and_takes_no_memory(connect, server) -> None:
    server[0].body = bytes(2**24)
    one = connect(receives=4096)
    one.sendall(GET)
    end, held = time.monotonic() + 10, 0
    while not held:
        assert time.monotonic() < end
        held = max((c.transport.get_write_buffer_size() for c in [*server[2].server_state.connections]), default=0)
    assert held <= 2**24 + 1000
    while server[2].server_state.connections:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_requests_sent_without_waiting_are_few(connect, server) -> None:
    server[0].seconds = 0.2
    one = connect()
    one.sendall(GET * 4)
    found = b""
    while found.count(b"ok") < 4:
        found += one.recv(1000)
    server[0].asked = 0
    one.sendall(GET * 1000)
    rest(one)
    assert server[0].asked <= 5


def test_one_connection_too_many_closes_the_longest_idle_one(connect, server, caplog: pytest.LogCaptureFixture) -> None:
    from serving.operation import logs

    logs._said.clear()
    busy = connect()
    server[0].seconds = 0.3
    busy.sendall(GET)
    time.sleep(0.05)
    idle = []
    with caplog.at_level(logging.WARNING, "serving"):
        for _ in range(12):
            idle.append(connect())
            time.sleep(0.01)
        idle[-1].sendall(GET)
        assert answered(idle[-1])
    assert rest(idle[0]) == b""
    assert len(server[2].server_state.connections) <= LIMITS.connections
    assert answered(busy)
    assert [record.message for record in caplog.records].count("too many connections: the longest idle ones are closed") == 1


def test_where_all_connections_are_busy_one_more_is_refused(connect, server) -> None:
    server[0].seconds = 0.3
    busy = [connect() for _ in range(LIMITS.connections)]
    for one in busy:
        one.sendall(GET)
    time.sleep(0.1)
    assert code(rest(connect())) == (503, "overloaded")
    assert all(answered(one) for one in busy)


def test_the_server_ends_in_time_whatever_clients_do() -> None:
    limits = ConnectionLimits(unread_seconds=60, end_seconds=0.5)
    with running(limits) as (app, address, server):
        app.body = bytes(8 * 2**20)
        with socket.create_connection(address) as deaf, socket.create_connection(address):
            deaf.sendall(GET)
            time.sleep(0.3)
            assert server.server_state.connections
            server.should_exit = True
            began = time.monotonic()
            while server.server_state.connections and time.monotonic() < began + 10:
                time.sleep(0.05)
            assert not server.server_state.connections


def test_half_of_the_files_are_left_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (300, 4096))
    assert ConnectionLimits.of(ServingSettings(device="cpu")).connections == 150
    monkeypatch.setattr("resource.getrlimit", lambda which: (100_000, 100_000))
    assert ConnectionLimits.of(ServingSettings(device="cpu")).connections == 1000


@pytest.mark.parametrize(
    ("host", "keys", "told"),
    [("0.0.0.0", (), 1), ("::", (), 1), ("127.0.0.1", (), 0), ("0.0.0.0", ("a-key-of-16-characters",), 0)],
)
def test_a_server_that_strangers_reach_says_so(
    host: str, keys: tuple[str, ...], told: int, heard: list[logging.LogRecord]
) -> None:
    tell_who_may_connect((host, 3000), ServingSettings(device="cpu", api_keys=keys))
    # A service that an earlier test left in this process may log too.
    assert sum("may use every page" in record.getMessage() for record in heard) == told


def test_a_server_takes_one_connection_a_tick_and_all_in_the_end() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        batches: list[int] = []
        accept = loop._accept_connection  # type: ignore[attr-defined]
        loop._accept_connection = lambda f, s, c, v, backlog, *more: (
            batches.append(backlog),
            accept(f, s, c, v, backlog, *more),
        )  # type: ignore[attr-defined]
        addresses: list[tuple[str, int]] = []
        accept_one_at_a_time(loop, addresses.append)
        answered: list[int] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answered.append(1)
            writer.write(b"hello")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=100)
        address = server.sockets[0].getsockname()
        assert addresses == [address]
        clients = [socket.create_connection(address) for _ in range(10)]
        for _ in range(100):
            await asyncio.sleep(0.01)
            if len(answered) == 10:
                break
        for client in clients:
            assert client.recv(5) == b"hello"
            client.close()
        assert set(batches) == {1}
        server.close()

    asyncio.run(main())


def test_another_kind_of_loop_is_left_alone() -> None:
    class Loop:
        pass

    loop = Loop()
    accept_one_at_a_time(loop)  # type: ignore[arg-type]
    assert vars(loop) == {}


def test_uvicorn_takes_the_limits() -> None:
    limit_connections(LIMITS)
    config = uvicorn.Config(App())
    config.load()
    assert config.http_protocol_class is LimitedProtocol
    assert LimitedProtocol.limits is LIMITS
    limit_connections(ConnectionLimits())
