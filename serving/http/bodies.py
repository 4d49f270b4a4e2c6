"""From a request's body to its fields: files told from text, everything within its limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import Headers, UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from serving.errors import Rejection
from serving.http.asked import Asked
from serving.http.forms import Disk, Form, FormReader
from serving.http.uploads import Upload, Uploads
from serving.schema import Feedback, Options, read
from serving.settings import ServingSettings

FILES = {"/v1/classify": "image", "/v1/classify_batch": "images"}
"""The field with pictures, by page."""

_FEEDBACK_BYTES = 64 * 1024

Fields = dict[str, Any]


class Bodies:
    """Reads the bodies of requests.

    Args:
        settings: of the service.
        check_room: raises Rejection where no more pictures fit in.
    """

    def __init__(self, settings: ServingSettings, check_room: Callable[[], None]) -> None:
        self._settings, self._check_room = settings, check_room
        self._disk = Disk(settings.max_uploads * settings.max_body_mib * 2**20)
        self._uploads = Uploads(
            limit=settings.max_uploads,
            seconds=settings.upload_seconds,
            grace=settings.upload_grace_seconds,
            pace=settings.upload_kib_per_second * 1024,
        )

    async def read(self, asked: Asked, scope: Scope, receive: Receive, opened: ExitStack) -> None:
        """Read what a request sends, if its page takes anything.

        Args:
            asked: gets what was read.
            scope: of the request.
            receive: brings the body.
            opened: closes the files.

        Raises:
            Rejection: of a body that is not as it should be, or not within the limits.
        """
        if scope["method"] == "POST" and scope["path"] in FILES:
            asked.pictures, asked.options = await self._read_images(scope, receive, opened)
        elif scope["method"] == "POST" and scope["path"] == "/v1/feedback":
            asked.feedback = await self._read_feedback(scope, receive, opened)

    async def _read_images(self, scope: Scope, receive: Receive, opened: ExitStack) -> tuple[list[UploadFile], Options]:
        media = _media_type(scope)
        if media != "multipart/form-data":
            raise Rejection(
                "unsupported_media_type",
                f"send multipart/form-data with the picture, not {media[:80] or 'a body without type'}",
            )
        self._check_room()
        name = FILES[scope["path"]]
        limit = int(self._settings.max_body_mib * 2**20)
        form = await self._form(scope, receive, opened, limit, self._settings.max_images)
        files, fields = form.pop(name, []), _single(form)
        _known(fields, Options, name)
        _refuse_files(fields)
        pictures = [file for file in files if isinstance(file, UploadFile)]
        if len(pictures) < len(files):
            raise Rejection(
                "unsupported_media_type", f"{name} must be a file (curl -F {name}=@cat.jpg), not text; URLs are not fetched"
            )
        if not pictures:
            raise Rejection("invalid", f"{name}: field required: send a picture as a file (curl -F {name}=@cat.jpg)")
        if scope["path"] == "/v1/classify" and len(pictures) > 1:
            raise Rejection("invalid", f"{len(pictures)} pictures: send one, or many as images to /v1/classify_batch")
        return pictures, read(Options, fields)

    async def _read_feedback(self, scope: Scope, receive: Receive, opened: ExitStack) -> Feedback:
        media = _media_type(scope)
        if media == "multipart/form-data":
            fields = _single(await self._form(scope, receive, opened, _FEEDBACK_BYTES, 1))
            _refuse_files(fields)
        elif media == "application/json":
            async with self._uploads.reading() as upload:
                body = await Request(scope, _limited(scope, receive, _FEEDBACK_BYTES, upload)).body()
            try:
                fields = json.loads(body)
            except (ValueError, RecursionError):
                raise Rejection("malformed", 'the body is not JSON: send {"id": "...", "label": "..."}') from None
            if not isinstance(fields, dict):
                raise Rejection("invalid", 'body: send an object, {"id": "...", "label": "..."}')
        else:
            raise Rejection("unsupported_media_type", f"send application/json, not {media[:80] or 'a body without type'}")
        _known(fields, Feedback)
        for name in Feedback.model_fields:
            if fields.get(name) is None:
                raise Rejection("invalid", f'{name}: field required: send {{"id": "...", "label": "..."}}')
        return read(Feedback, fields)

    async def _form(self, scope: Scope, receive: Receive, opened: ExitStack, limit: int, files: int) -> Form:
        """The fields of a form."""
        reader = opened.enter_context(FormReader(Headers(scope=scope).get("content-type", ""), files, self._disk))
        async with self._uploads.reading() as upload:
            return await reader.read(Request(scope, _limited(scope, receive, limit, upload)).stream())


def _limited(scope: Scope, receive: Receive, limit: int, upload: Upload) -> Receive:
    """``receive`` that counts the bytes, whatever Content-Length says. Raises Rejection over the limit."""
    message = f"the body is larger than {limit / 2**20:g} MiB"
    announced = Headers(scope=scope).get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise Rejection("too_large", message)

    async def counted() -> Message:
        received = await receive()
        upload.add(len(received.get("body", b"")))
        if upload.received > limit:
            raise Rejection("too_large", message)
        return received

    return counted


def _media_type(scope: Scope) -> str:
    return Headers(scope=scope).get("content-type", "").split(";")[0].strip().lower()


def _single(form: Form) -> Fields:
    """Form fields that may be there once; BentoML's client sends them as JSON, others as text."""
    for name, values in form.items():
        if len(values) > 1:
            raise Rejection("invalid", f"{name[:80]!r}: given {len(values)} times, once is right")
    return {name: _value(values[0]) for name, values in form.items()}


def _value(text: str | UploadFile) -> Any:
    if isinstance(text, UploadFile):
        return text
    stripped = text.strip()
    if stripped == "null":
        return None
    if len(stripped) > 1 and stripped[0] == stripped[-1] == '"':
        try:
            return json.loads(stripped)
        except ValueError:
            return text
    return text


def _known(fields: Fields, model: type[BaseModel], *more: str) -> None:
    unknown = [name for name in fields if name not in model.model_fields]
    if unknown:
        names = ", ".join((*more, *model.model_fields))
        raise Rejection("invalid", f"unknown field {unknown[0][:80]!r}: known are {names}")


def _refuse_files(fields: Fields) -> None:
    wrong = next((name for name, value in fields.items() if isinstance(value, UploadFile)), None)
    if wrong is not None:
        raise Rejection("invalid", f"{wrong[:80]!r}: a file where text is right")
