"""A request as the front door has read it, for whoever answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.requests import Request

from serving.http.urgency import NORMAL, Urgency
from serving.operation.logs import Notes
from serving.schema import Feedback, Options

ASKED = "serving.asked"
"""Key of an ASGI scope."""


@dataclass(kw_only=True)
class Asked:
    """A request; what its page does not take is empty.

    Attributes:
        notes: its id, and what its log line and its trace will say.
        urgency: how its pictures wait.
        pictures: files, open until the answer is sent.
        options: how to classify them.
        feedback: the label of an earlier answer.
    """

    notes: Notes
    urgency: Urgency = NORMAL
    pictures: Sequence[UploadFile] = ()
    options: Options = field(default_factory=Options)
    feedback: Feedback | None = None


def asked_of(request: Request) -> Asked:
    """What the front door has read of a request."""
    asked = request.scope[ASKED]
    assert isinstance(asked, Asked)
    return asked
