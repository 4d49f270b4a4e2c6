"""A request as the front door has read it, for whoever answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.requests import Request

from serving.http.urgency import NORMAL, Urgency
from serving.operation.logs import Notes
from serving.schema import Feedback, Options

_KEY = "serving.asked"


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a body says; fields that its page does not have are empty.

    Attributes:
        pictures: files, open until the answer is sent.
        options: how to classify them.
        feedback: the label of an earlier answer.
    """

    pictures: Sequence[UploadFile] = ()
    options: Options = field(default_factory=Options)
    feedback: Feedback | None = None


@dataclass(kw_only=True)
class Asked:
    """A request.

    Attributes:
        notes: its id, and what its log line and its trace will say.
        urgency: how its images wait.
        body: what it sent.
    """

    notes: Notes
    urgency: Urgency = NORMAL
    body: Body = field(default_factory=Body)

    @classmethod
    def of(cls, request: Request) -> Asked:
        """What the front door has read of a request."""
        found = request.scope[_KEY]
        assert isinstance(found, cls)
        return found

    @property
    def as_scope(self) -> dict[str, Asked]:
        """What the request's ASGI scope gets, for :meth:`of`."""
        return {_KEY: self}
