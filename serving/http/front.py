"""The front door: every request passes here first.

Asks who comes and whether they may, has the body read, gives every error the one shape, every request an id and a line in
the log, and gives up what nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import Rejection, rejection_for
from serving.http.asked import ASKED, Asked
from serving.http.bodies import FILES, Bodies
from serving.http.clients import Keys
from serving.http.rates import Rate
from serving.http.security import cors_headers, host_allowed
from serving.http.sender import Sender, nothing_more
from serving.http.urgency import urgency_of
from serving.ids import new_id
from serving.operation import metrics, tracing
from serving.operation.logs import LOGGER, Notes, event
from serving.settings import ServingSettings

ANSWER_SECONDS = 90
"""Seconds from the whole request to its answer; then 503."""

_PAGES = {
    *FILES,
    "/v1/feedback",
    "/v1/gap",
    "/v1/network",
    "/admin/reload",
    "/",
    "/ui",
    "/metrics",
    "/healthz",
    "/livez",
    "/readyz",
}
_PROBES = {"/healthz", "/livez", "/readyz"}
_QUIET = {"/metrics", *_PROBES}
_OPEN = {"/", "/ui", "/docs.json"}
"""Pages that hold nothing to protect, beside the probes."""
_OPERATORS = "/admin/"
"""Below it, pages are always operators' alone."""


class FrontDoor:
    """ASGI middleware that asks who comes, reads bodies, shapes errors, and counts and logs every request.

    Args:
        app: what follows.
        settings: of the service.
        check_room: raises Rejection where no more pictures fit in.
        draining: whether the server is about to end: each answer is then its connection's last, so that a client that
            keeps connections open goes to another server instead of losing a request with this one.
        folder: of the server, whose processes count the requests of a client together; unless given, this one is alone.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServingSettings,
        check_room: Callable[[], None],
        draining: Callable[[], bool] = lambda: False,
        folder: Path | None = None,
    ) -> None:
        self._app, self._settings, self._draining = app, settings, draining
        self._keys = Keys(settings.api_keys, settings.operator_keys)
        self._private = set(settings.private_paths)
        requests = Rate(settings.requests_per_minute, folder and folder / "rates" / "requests")
        feedback = Rate(settings.feedback_per_minute, folder and folder / "rates" / "feedback")
        self._rates = {**dict.fromkeys(FILES, requests), "/v1/feedback": feedback}
        self._bodies = Bodies(settings, check_room)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        asked = Asked(notes=Notes(new_id()))
        scope[ASKED] = asked
        headers = Headers(scope=scope)
        origins = cors_headers(headers.get("origin"), self._settings.cors_origins)
        sender = Sender(scope, send, {"X-Request-ID": asked.notes.id, **origins}, self._draining)
        try:
            if _is_preflight(scope, headers) and "access-control-allow-origin" in origins:
                await sender.answer_preflight()
                return
            self._admit(scope, headers, asked)
            with ExitStack() as opened:
                await self._bodies.read(asked, scope, receive, opened)
                await self._answer(scope, receive, sender)
        except Rejection as rejection:
            await sender.reject(rejection)
        except ClientDisconnect:
            sender.code, sender.status = "malformed", 499  # nobody is left to read an answer
        except TimeoutError:
            message = f"the answer took more than {ANSWER_SECONDS} s: try again"
            await sender.reject(Rejection("overloaded", message, retry_after=10))
        except MemoryError:
            LOGGER.exception("no memory", extra={"facts": {"id": asked.notes.id}})
            await sender.reject(Rejection("overloaded", "the server has no memory left: try again", retry_after=10))
        except Exception:
            LOGGER.exception("unexpected", extra={"facts": {"id": asked.notes.id}})
            await sender.reject(rejection_for(500))
        finally:
            self._note(scope, asked.notes, sender, time.perf_counter() - began)

    def _admit(self, scope: Scope, headers: Headers, asked: Asked) -> None:
        """Raise Rejection where this client may not ask this, or not now."""
        path = scope["path"]
        if path in _PROBES:
            return  # an orchestrator names no host that it knows, and has no key
        if not host_allowed(headers.get("host", ""), self._settings.allowed_hosts):
            raise Rejection("forbidden", "this server does not answer for the host that the request names")
        address = (scope.get("client") or ("",))[0]
        client = self._keys.client(headers, address)
        asked.notes.facts["client"] = client.name
        if (path in self._private or path.startswith(_OPERATORS)) and not client.operator:
            if client.known:
                raise Rejection("forbidden", "this page is for operators")
            raise Rejection("unauthorized", "this page is for operators: send X-API-Key: KEY")
        if self._keys.needed and not client.known and path not in _OPEN:
            raise Rejection("unauthorized", "send a key: X-API-Key: KEY, or Authorization: Bearer KEY")
        if scope["query_string"] and path.startswith("/v1/"):
            raise Rejection("invalid", "the address has a query behind ?: options are form fields (curl -F top_k=1)")
        if scope["method"] == "POST" and path in FILES:
            asked.urgency = urgency_of(headers, time.monotonic(), client.operator)
        if scope["method"] == "POST" and path in self._rates:
            self._rates[path].check(client.name)

    async def _answer(self, scope: Scope, receive: Receive, sender: Sender) -> None:
        """Have the request answered while its client waits.

        Raises:
            ClientDisconnect: it has gone; what was done for it is cancelled.
            TimeoutError: the answer takes too long.
        """
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        watch = asyncio.create_task(_gone(receive))
        try:
            async with asyncio.timeout(ANSWER_SECONDS) as timeout:

                def give_up(done: asyncio.Task[None]) -> None:
                    if not done.cancelled() and not sender.complete:
                        gone.set()
                        timeout.reschedule(loop.time())

                watch.add_done_callback(give_up)
                await self._app(scope, nothing_more(gone), sender)
                sender.complete = True
        except TimeoutError:
            if gone.is_set():
                raise ClientDisconnect from None
            raise
        finally:
            sender.complete = True
            watch.cancel()

    def _note(self, scope: Scope, notes: Notes, sender: Sender, seconds: float) -> None:
        page = scope["path"] if scope["path"] in _PAGES else "other"
        metrics.REQUESTS.labels(page, sender.status).inc()
        if sender.code:
            metrics.REJECTIONS.labels(sender.code).inc()
        if page in _QUIET:
            return
        metrics.LATENCY.labels(page).observe(seconds)
        facts = {"id": notes.id, "method": scope["method"], "path": scope["path"][:200], "status": sender.status}
        facts |= {"ms": round(1000 * seconds, 2)} | notes.facts
        if sender.code:
            facts["code"] = sender.code
        if theirs := Headers(scope=scope).get("x-request-id"):
            facts["client_id"] = theirs[:100]
        event("request", facts=facts)
        tracing.record(f"{scope['method']} {page}", notes, facts, seconds, Headers(scope=scope))


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


async def _gone(receive: Receive) -> None:
    """End when the client has gone; what it still sends is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass
