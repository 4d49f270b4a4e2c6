"""Answers on their way out: refusals, and the headers of every answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serving.errors import Rejection
from serving.http.security import HEADERS, preflight_headers


class Sender:
    """Sends a response on, with the headers that every answer has.

    Args:
        scope: of the request.
        send: what sends.
        more: headers.
        last: asked as the answer begins: whether the client shall ask elsewhere from then on.

    Attributes:
        begun: whether something was sent.
        complete: whether all was sent.
        status: of the answer.
        code: why the request was refused; None where it was not.
    """

    def __init__(self, scope: Scope, send: Send, more: Mapping[str, str], last: Callable[[], bool] = lambda: False) -> None:
        self._scope, self._send, self._more, self._last = scope, send, more, last
        self.begun = self.complete = False
        self.status = 500
        self.code: str | None = None

    async def __call__(self, message: Message) -> None:
        """Send a message of the answer on."""
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.update(self._more)
            if self._last():
                headers["connection"] = "close"  # the server closes it behind the answer
        else:
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def reject(self, rejection: Rejection) -> None:
        """Answer with a rejection, unless an answer has begun."""
        if not self.begun:
            self.code = rejection.code
            await rejection.response()(self._scope, nothing_more(), self)

    async def answer_preflight(self) -> None:
        """Tell a browser what pages of an allowed origin may send."""
        await Response(status_code=204, headers=preflight_headers())(self._scope, nothing_more(), self)


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
