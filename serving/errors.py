"""The one shape of every refusal: {"error": {"code": ..., "message": ...}}."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

CODES: Mapping[str, tuple[int, str]] = {
    "malformed": (400, "the request or its body cannot be parsed"),
    "unauthorized": (401, "a key is needed, or the one given is not known"),
    "forbidden": (403, "a page for operators, or another host's"),
    "not_found": (404, "no such page, or no answered request of that id"),
    "method_not_allowed": (405, "the page knows other methods"),
    "timeout": (408, "the head or body took too long to arrive"),
    "conflict": (409, "the label of an answer, changed too often or too late; or a run that is not taken over"),
    "too_large": (413, "the body, the number of images, or the pixels of one"),
    "unsupported_media_type": (415, "neither form data, nor a JPEG, PNG or WebP picture with 8 bits of grey or RGB"),
    "bad_image": (422, "a picture that cannot be decoded, or is too small"),
    "invalid": (422, "a form value, or a field that is missing"),
    "rate_limited": (429, "too many requests of one client; try again after the seconds that Retry-After says"),
    "head_too_large": (431, "the request's line and headers"),
    "internal": (500, "a bug"),
    "overloaded": (503, "try again after the seconds that Retry-After says"),
    "unavailable": (503, "the database cannot be reached"),
    "starting": (503, "not warmed up yet, or shutting down"),
}
"""Every code with its status and what it means."""


class Rejection(Exception):  # noqa: N818, a refusal is no error of ours
    """A request, or one image of it, that is refused.

    Args:
        code: one of :data:`CODES`.
        message: what was wrong and what would be right, for the client.
        retry_after: seconds after which to try again; None where that would not help.
        headers: of the response, beside those that follow from the code.
    """

    def __init__(
        self, code: str, message: str, retry_after: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        message = message.encode("utf-8", "replace").decode()  # it may quote what no JSON can hold
        super().__init__(message)
        self.code, self.message, self.retry_after, self._headers = code, message, retry_after, headers or {}

    @property
    def status(self) -> int:
        """HTTP status of the code."""
        return CODES[self.code][0]

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """The body of the response, JSON-ready."""
        return {"error": {"code": self.code, "message": self.message}}

    def response(self) -> JSONResponse:
        """The response that the client gets."""
        headers = dict(self._headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def rejection_for(status: int, headers: Mapping[str, str] | None = None) -> Rejection:
    """The refusal for a status and headers that the framework answers with."""
    code = next((code for code, (known, _) in CODES.items() if known == status), None)
    if code is None:
        code = "malformed" if status < 500 else "internal"
    phrase = "an unexpected error; the server's log has it" if status >= 500 else HTTPStatus(status).phrase.lower()
    return Rejection(code, phrase, headers=headers)
