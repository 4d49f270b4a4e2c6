"""Connections: shared evenly among the worker processes, limited in number, size and time.

Uvicorn reads heads of any size, waits for silent clients without end, and for clients that do not read their answers. Its
protocol for HTTP is extended here by limits of each; nothing of how requests are answered changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Self

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import Rejection
from serving.http.security import HEADERS
from serving.operation import logs, metrics
from serving.settings import ServingSettings


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What a connection may take.

    Attributes:
        head_bytes: of a request's line and headers.
        head_seconds: of silence before the first request, or until a head is complete.
        keep_alive_seconds: of silence after an answer.
        unread_seconds: that answers may lie unread.
        end_seconds: that requests may take once the server ends.
        connections: of this process.
        pipelined: requests that a client may send before it has the answer to the first.
    """

    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    keep_alive_seconds: float = 75.0
    unread_seconds: float = 30.0
    end_seconds: float = 20.0
    connections: int = 1000
    pipelined: int = 32

    @classmethod
    def of(cls, settings: ServingSettings) -> Self:
        """Those of the settings, and of the files that this process may open: half of them are left for other things."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = settings.max_connections if files == resource.RLIM_INFINITY else min(settings.max_connections, files // 2)
        return cls(
            head_bytes=int(settings.max_header_kib * 1024),
            head_seconds=settings.header_seconds,
            keep_alive_seconds=settings.keep_alive_seconds,
            unread_seconds=settings.reading_seconds,
            end_seconds=settings.end_seconds,
            connections=max(1, most),
        )


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol within :attr:`limits`; see :func:`limit_connections`."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timeout_keep_alive = self.limits.keep_alive_seconds  # type: ignore[assignment]
        self.ws_protocol_class = None  # nothing here speaks WebSocket, and nothing limits it
        shortest = min(self.limits.head_seconds, self.limits.keep_alive_seconds, self.limits.unread_seconds)
        self._tick = min(1.0, shortest / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._unread_since: float | None = None
        self._head: int | None = None  # bytes of the head that is being read, as far as its lines are complete
        self._head_received = 0  # bytes that came since the piece that it began in
        self._refusal: Rejection | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _silence(self) -> float:
        """Seconds that a client may be silent now. Uvicorn's timer for it ends where bytes come that are no request."""
        kept = self.cycle is not None and self._head is None
        return self.limits.keep_alive_seconds if kept else self.limits.head_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and close another where there are too many."""
        super().connection_made(transport)
        metrics.CONNECTIONS.set(len(self.connections))
        self._idle_since = self.loop.time()
        self._timer = self.loop.call_later(self._tick, self._look)
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        metrics.CONNECTIONS.set(len(self.connections))
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the client was refused."""
        if self._refusal is not None:
            return
        goes_on, idle, latest = self._head is not None, self.idle, self.cycle
        super().data_received(data)
        # A line that is not complete is not counted yet: count the bytes, unless a request before it came in the same piece.
        if self._head is not None and (goes_on or (idle and self.cycle is latest)):
            self._head_received += len(data)
            if self._head_received > self.limits.head_bytes:
                self._refuse(self._head_too_large(), "head_bytes")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head = self._head_received = 0
        self._idle_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of a head."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A part of a head."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head ends, and a request begins."""
        if len(self.pipeline) >= self.limits.pipelined:
            message = f"more than {self.limits.pipelined} requests were sent before the first was answered"
            self._refusal = Rejection("malformed", message)
            raise ValueError(message)
        self._head = self._idle_since = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or what a limit of the head forbids: uvicorn calls this where the parser stops."""
        if self._refusal is None:
            self._refuse(Rejection("malformed", "this is not HTTP"), "malformed")
        else:
            self._refuse(self._refusal, "head_bytes" if self._refusal.status == 431 else "pipelined")

    def shutdown(self) -> None:
        """End after the requests under way; cut what has not ended in time."""
        super().shutdown()
        self.loop.call_later(self.limits.end_seconds, self._cut, "end")

    def _count(self, more: int) -> None:
        self._head = (self._head or 0) + more
        if self._head > self.limits.head_bytes:
            self._refusal = self._head_too_large()
            raise ValueError("the head is too large")

    def _head_too_large(self) -> Rejection:
        return Rejection("head_too_large", f"line and headers have more than {self.limits.head_bytes / 1024:g} KiB")

    def _look(self) -> None:
        """Whether the client keeps the server waiting; again and again until the connection is lost."""
        self._timer = self.loop.call_later(self._tick, self._look)
        now = self.loop.time()
        unread = self.transport.get_write_buffer_size() > 0
        self._unread_since = (self._unread_since or now) if unread else None
        self._idle_since = (self._idle_since or now) if self.idle else None
        if self._unread_since is not None:
            if now - self._unread_since > self.limits.unread_seconds:
                self._cut("unread")
        elif self._idle_since is not None and now - self._idle_since > self._silence:
            if self._head is None:
                self._cut("silent")
            else:
                seconds = f"{self.limits.head_seconds:g}"
                self._refuse(Rejection("timeout", f"line and headers took more than {seconds} s"), "head_seconds")

    def _make_room(self) -> None:
        """Close the connection that has been idle longest; one that has never had an answer goes first."""
        idle = [c for c in self.connections if isinstance(c, LimitedProtocol) and c is not self and c.idle]
        idle = [c for c in idle if not c.transport.is_closing()]
        facts = {"connections": len(self.connections), "limit": self.limits.connections, "idle": len(idle)}
        logs.seldom("connections", "too many connections: the longest idle ones are closed", facts=facts)
        if idle:
            min(idle, key=lambda c: (c.cycle is not None, c._idle_since or 0.0))._cut("too_many")
        else:
            self._refuse(Rejection("overloaded", "too many connections: try again", retry_after=1), "too_many")

    def _refuse(self, rejection: Rejection, cause: str) -> None:
        """Answer with a refusal and close; only close where another answer is under way."""
        self._refusal = rejection
        metrics.CUT.labels(cause).inc()
        if not self.transport.is_closing() and self.idle:
            self.transport.write(_answer(rejection))
        self.transport.close()

    def _cut(self, cause: str) -> None:
        if self in self.connections:
            metrics.CUT.labels(cause).inc()
            self.transport.abort()


def limit_connections(limits: ConnectionLimits) -> None:
    """Have every uvicorn server of this process that is started from now on keep the limits."""
    LimitedProtocol.limits = limits
    HTTP_PROTOCOLS["auto"] = f"{LimitedProtocol.__module__}:{LimitedProtocol.__qualname__}"


def accept_one_at_a_time(loop: asyncio.AbstractEventLoop, listens: Callable[[Any], None] = lambda address: None) -> None:
    """Let a worker take one new connection at a time instead of all that wait.

    All workers listen on one socket, and asyncio accepts up to ``backlog`` connections at once: of a load balancer's sixteen
    lasting connections the worker that woke first kept all, and the others idled. So the loop at hand is given a backlog of
    one, and the socket the one that was wanted. Call it before the server starts.

    Args:
        loop: that the server will run in; one that makes no servers is left alone.
        listens: called with the address of each socket that is listened on.
    """
    create = getattr(loop, "create_server", None)
    if create is None:
        return

    async def create_server(*arguments: Any, backlog: int = 100, **options: Any) -> Any:
        server = await create(*arguments, backlog=1, **options)
        for listener in server.sockets:
            with socket.socket(fileno=os.dup(listener.fileno())) as same:
                same.listen(backlog)
            listens(listener.getsockname())
        return server

    loop.create_server = create_server  # type: ignore[method-assign]


def tell_who_may_connect(address: Any, settings: ServingSettings) -> None:
    """Say in the log where strangers can reach a server that asks for no key."""
    host = address[0] if isinstance(address, tuple) else ""
    if host and not host.startswith("127.") and host != "::1" and not settings.api_keys:
        what = f"whoever reaches {host}:{address[1]} may use every page"
        logs.event(f"{what}: set SERVING_API_KEYS, or bentoml serve --host 127.0.0.1", logging.WARNING)


def _answer(rejection: Rejection) -> bytes:
    body = json.dumps(rejection.body).encode()
    headers = {**HEADERS, "content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    if rejection.retry_after is not None:
        headers["retry-after"] = str(rejection.retry_after)
    lines = [
        f"HTTP/1.1 {rejection.status} {HTTPStatus(rejection.status).phrase}",
        *(f"{n}: {v}" for n, v in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
