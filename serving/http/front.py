"""The front door: every request passes here before BentoML sees it.

Reads bodies within their limits, tells files from text (BentoML fetches URLs it finds in a file's field), gives every error
the one shape, every request an id and a line in the log.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import bentoml
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import Rejection, rejection_for
from serving.ids import new_id
from serving.operation import metrics, tracing
from serving.operation.logs import LOGGER, REQUEST, Notes, event
from serving.schema import INPUT
from serving.settings import ServingSettings

REQUEST_ID = "serving.id"
"""Key of an ASGI scope: the request's id."""

CODE = "serving.code"
"""Key of an ASGI scope: why the request was refused."""

ANSWER_SECONDS = 90
"""Seconds from the whole request to its answer; then 503."""

_PARSER = "serving.parser"
_FILES = {"/v1/classify": "image", "/v1/classify_batch": "images"}
_OPTIONS = ("policy", "max_gmacs", "top_k", "configuration", "keep")
_PAGES = {*_FILES, "/v1/feedback", "/v1/gap", "/v1/network", "/", "/ui", "/metrics", "/healthz", "/livez", "/readyz"}
_QUIET = {"/metrics", "/healthz", "/livez", "/readyz"}
_FIELD_BYTES = 4096
_FEEDBACK_BYTES = 64 * 1024

Fields = dict[str, Any]


class FrontDoor:
    """ASGI middleware that reads bodies, shapes errors, and counts and logs every request.

    Args:
        app: what follows.
        settings: of the service.
    """

    def __init__(self, app: ASGIApp, settings: ServingSettings) -> None:
        self._app, self._settings = app, settings
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        notes = Notes(new_id())
        REQUEST.set(notes)
        scope[REQUEST_ID], scope[CODE] = notes.id, None
        sender = _Sender(scope, send)
        try:
            reader = self._reader(scope)
            if reader is not None:
                scope[INPUT] = await reader(scope, receive)
                receive = _nothing_more
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._app(scope, receive, sender)
        except Rejection as rejection:
            await sender.reject(rejection)
        except ClientDisconnect:
            # Nobody is left to read it, but BentoML's timeout waits for an answer, and so would the end of the server.
            await sender.reject(Rejection("malformed", "the connection was closed"))
            sender.status = 499
        except TimeoutError:
            message = f"the answer took more than {ANSWER_SECONDS} s: try again"
            await sender.reject(Rejection("overloaded", message, retry_after=10))
        except Exception:
            LOGGER.exception("unexpected", extra={"facts": {"id": scope[REQUEST_ID]}})
            await sender.reject(rejection_for(500))
        finally:
            # The parser knows every file it began, also of a form that never ended.
            for file in scope[_PARSER]._files_to_close_on_error if _PARSER in scope else ():
                file.close()
            self._note(scope, notes, sender.status, time.perf_counter() - began)

    def _reader(self, scope: Scope) -> Callable[[Scope, Receive], Awaitable[Fields]] | None:
        if scope["method"] != "POST":
            return None
        if scope["path"] in _FILES:
            return self._read_images
        return self._read_feedback if scope["path"] == "/v1/feedback" else None

    async def _read_images(self, scope: Scope, receive: Receive) -> Fields:
        media = _media_type(scope)
        if media != "multipart/form-data":
            raise Rejection(
                "unsupported_media_type",
                f"send multipart/form-data with the picture, not {media[:80] or 'a body without type'}",
            )
        bentoml.get_current_service().classifier.check_room()
        name = _FILES[scope["path"]]
        form = await self._form(scope, receive, int(self._settings.max_body_mib * 2**20), self._settings.max_images)
        files, fields = form.pop(name, []), _single(form)
        _known(fields, _OPTIONS, name)
        _refuse_files(fields)
        text = next((f for f in files if not isinstance(f, UploadFile)), None)
        if text is not None:
            raise Rejection(
                "unsupported_media_type", f"{name} must be a file (curl -F {name}=@cat.jpg), not text; URLs are not fetched"
            )
        if not files:
            raise Rejection("invalid", f"{name}: field required: send a picture as a file (curl -F {name}=@cat.jpg)")
        if scope["path"] == "/v1/classify":
            if len(files) > 1:
                raise Rejection("invalid", f"{len(files)} pictures: send one, or many as images to /v1/classify_batch")
            return {name: files[0], **fields}
        return {name: files, **fields}

    async def _read_feedback(self, scope: Scope, receive: Receive) -> Fields:
        media = _media_type(scope)
        if media == "multipart/form-data":
            fields = _single(await self._form(scope, receive, _FEEDBACK_BYTES, 1))
            _refuse_files(fields)
        elif media == "application/json":
            body = await self._within_time(Request(scope, _limited(scope, receive, _FEEDBACK_BYTES)).body())
            try:
                fields = json.loads(body)
            except (ValueError, RecursionError):
                raise Rejection("malformed", 'the body is not JSON: send {"id": "...", "label": "..."}') from None
            if not isinstance(fields, dict):
                raise Rejection("invalid", 'body: send an object, {"id": "...", "label": "..."}')
        else:
            raise Rejection("unsupported_media_type", f"send application/json, not {media[:80] or 'a body without type'}")
        _known(fields, ("id", "label"))
        for name in ("id", "label"):
            if fields.get(name) is None:
                raise Rejection("invalid", f'{name}: field required: send {{"id": "...", "label": "..."}}')
        return fields

    async def _form(self, scope: Scope, receive: Receive, limit: int, files: int) -> dict[str, list[str | UploadFile]]:
        """The fields of a form; a file larger than a megabyte waits on disk."""
        if self._uploads >= self._settings.max_uploads:
            raise Rejection("overloaded", f"{self._uploads} uploads are read already: try again", retry_after=1)
        stream = Request(scope, _limited(scope, receive, limit)).stream()
        self._uploads += 1
        parser = MultiPartParser(
            Headers(scope=scope), stream, max_files=files, max_fields=32, max_part_size=max(limit, 2**20)
        )
        scope[_PARSER] = parser
        try:
            form = await self._within_time(parser.parse())
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise Rejection("too_large", f"more than {files} files: send fewer") from None
            raise Rejection("malformed", f"the form cannot be parsed: {error.message[:200]}") from None
        except (ValueError, LookupError, AssertionError):  # of strange charsets and headers
            raise Rejection("malformed", "the form cannot be parsed") from None
        finally:
            self._uploads -= 1
        found: dict[str, list[str | UploadFile]] = {}
        for name, value in form.multi_items():
            found.setdefault(name, []).append(value)
        return found

    async def _within_time(self, reading: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._settings.upload_seconds):
                return await reading
        except TimeoutError:
            raise Rejection("timeout", f"the body took more than {self._settings.upload_seconds:g} s") from None

    def _note(self, scope: Scope, notes: Notes, status: int, seconds: float) -> None:
        page = scope["path"] if scope["path"] in _PAGES else "other"
        metrics.REQUESTS.labels(page, status).inc()
        if scope[CODE]:
            metrics.REJECTIONS.labels(scope[CODE]).inc()
        if page in _QUIET:
            return
        metrics.LATENCY.labels(page).observe(seconds)
        facts = {"id": notes.id, "method": scope["method"], "path": scope["path"][:200], "status": status}
        facts |= {"ms": round(1000 * seconds, 2)} | notes.facts
        if scope[CODE]:
            facts["code"] = scope[CODE]
        if theirs := Headers(scope=scope).get("x-request-id"):
            facts["client_id"] = theirs[:100]
        event("request", facts=facts)
        tracing.record(f"{scope['method']} {page}", notes, facts, seconds, Headers(scope=scope))


class _Sender:
    """Sends a response on; an error that is not in our shape is put into it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._held: Message | None = None
        self._body = b""
        self._begun = False
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._scope[REQUEST_ID]
            if self.status >= 400:
                self._held = message
                return
            self._begun = True
            await self._send(message)
        elif self._held is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_error(self._held)

    async def _send_error(self, start: Message) -> None:
        code, rejection = _code_of(self._body), None
        if code is None:
            rejection = rejection_for(self.status)
            if self.status == 503 and self._scope["path"] == "/readyz":
                rejection = Rejection("starting", "not warmed up yet", retry_after=1)
            code, self._body = rejection.code, json.dumps(rejection.body).encode()
        self._scope[CODE] = code
        headers = MutableHeaders(scope=start)
        if rejection is not None and rejection.retry_after is not None:
            headers["Retry-After"] = str(rejection.retry_after)
        headers["Content-Type"], headers["Content-Length"] = "application/json", str(len(self._body))
        self._begun = True
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else self._body})

    async def reject(self, rejection: Rejection) -> None:
        """Answer with a rejection, unless an answer has begun."""
        if self._begun:
            return
        self._held, self._body = None, b""
        await rejection.response()(self._scope, _nothing_more, self)


def _code_of(body: bytes) -> str | None:
    """The code of an error body; None where it is not in our shape."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


def _limited(scope: Scope, receive: Receive, limit: int) -> Receive:
    """``receive`` that counts the bytes, whatever Content-Length says. Raises Rejection over the limit."""
    message = f"the body is larger than {limit / 2**20:g} MiB"
    announced = Headers(scope=scope).get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise Rejection("too_large", message)
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        received = await receive()
        seen += len(received.get("body", b""))
        if seen > limit:
            raise Rejection("too_large", message)
        return received

    return counted


async def _nothing_more() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _media_type(scope: Scope) -> str:
    return Headers(scope=scope).get("content-type", "").split(";")[0].strip().lower()


def _single(form: Mapping[str, list[str | UploadFile]]) -> Fields:
    """Form fields that may be there once; BentoML's client sends them as JSON, others as text."""
    for name, values in form.items():
        if len(values) > 1:
            raise Rejection("invalid", f"{name[:80]!r}: given {len(values)} times, once is right")
    return {name: _value(values[0]) for name, values in form.items()}


def _value(text: str | UploadFile) -> Any:
    if isinstance(text, UploadFile):
        return text
    if len(text) > _FIELD_BYTES:
        raise Rejection("invalid", f"a form value of {len(text)} characters: at most {_FIELD_BYTES}")
    stripped = text.strip()
    if stripped == "null":
        return None
    if len(stripped) > 1 and stripped[0] == stripped[-1] == '"':
        try:
            return json.loads(stripped)
        except ValueError:
            return text
    return text


def _known(fields: Fields, names: tuple[str, ...], *more: str) -> None:
    unknown = [name for name in fields if name not in names]
    if unknown:
        raise Rejection("invalid", f"unknown field {unknown[0][:80]!r}: known are {', '.join((*more, *names))}")


def _refuse_files(fields: Fields) -> None:
    wrong = next((name for name, value in fields.items() if isinstance(value, UploadFile)), None)
    if wrong is not None:
        raise Rejection("invalid", f"{wrong[:80]!r}: a file where text is right")
