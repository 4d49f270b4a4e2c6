"""Answers on their way out: every error in the one shape, every answer with its headers."""

from __future__ import annotations

import asyncio
import json

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from serving.errors import Rejection, rejection_for
from serving.http.security import HEADERS, preflight_headers


class Sender:
    """Sends a response on; an error that is not in our shape is put into it, and every answer gets its headers.

    Args:
        scope: of the request.
        send: what sends.
        more: headers.

    Attributes:
        complete: whether all was sent.
        status: of the answer.
        code: why the request was refused; None where it was not.
    """

    def __init__(self, scope: Scope, send: Send, more: dict[str, str]) -> None:
        self._scope, self._send, self._more = scope, send, more
        self._held: Message | None = None
        self._body = b""
        self._begun = False
        self.complete = False
        self.status = 500
        self.code: str | None = None

    async def __call__(self, message: Message) -> None:
        """Send a message of the answer on, or hold it back where it is an error's."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.update(self._more)
            if self.status >= 400:
                self._held = message
                return
            self._begun = True
            await self._send(message)
        elif self._held is None:
            self.complete = not message.get("more_body", False)
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_error(self._held)

    async def _send_error(self, start: Message) -> None:
        code, rejection = _code_of(self._body), None
        if code is None:
            rejection = rejection_for(self.status)
            code, self._body = rejection.code, json.dumps(rejection.body).encode()
        self.code = code
        headers = MutableHeaders(scope=start)
        if rejection is not None and rejection.retry_after is not None:
            headers["Retry-After"] = str(rejection.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        headers["Content-Type"], headers["Content-Length"] = "application/json", str(len(self._body))
        self._begun = self.complete = True
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else self._body})

    async def reject(self, rejection: Rejection) -> None:
        """Answer with a rejection, unless an answer has begun."""
        if self._begun:
            return
        self._held, self._body = None, b""
        await rejection.response()(self._scope, nothing_more(), self)

    async def answer_preflight(self) -> None:
        """Tell a browser what pages of an allowed origin may send."""
        headers = [(name.encode(), value.encode()) for name, value in preflight_headers().items()]
        await self({"type": "http.response.start", "status": 204, "headers": headers})
        await self({"type": "http.response.body", "body": b""})


def _code_of(body: bytes) -> str | None:
    """The code of an error body; None where it is not in our shape."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


def nothing_more(gone: asyncio.Event | None = None) -> Receive:
    """``receive`` of a request whose body was read: the app learns its end, and then waits until the client has gone."""
    ended, gone = False, gone or asyncio.Event()

    async def receive() -> Message:
        nonlocal ended
        if not ended:
            ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive
