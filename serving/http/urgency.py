"""How urgent a request is: what its headers say, from the front door to the batcher."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import Rejection

PRIORITIES = {"low": -1, "normal": 0, "high": 1}
"""What X-Priority may say; high is operators', since whoever has it goes before everybody else."""

LONGEST_MS = 90_000
"""Of X-Deadline-Ms: no answer takes longer."""

PARAMETERS: Sequence[dict[str, Any]] = (
    {
        "name": "X-Priority",
        "in": "header",
        "schema": {"enum": list(PRIORITIES), "default": "normal"},
        "description": "How its images wait: those of higher ones go first; high is for operators",
    },
    {
        "name": "X-Deadline-Ms",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_MS},
        "description": "Milliseconds from now after which nobody wants the answer: images that still wait get `overloaded`",
    },
)
"""The headers that :func:`urgency_of` reads, for the OpenAPI document."""


@dataclass(frozen=True, kw_only=True)
class Urgency:
    """How a request waits; see :meth:`serving.inference.batcher.Batcher.submit`.

    Attributes:
        priority: higher ones go first.
        deadline: when nobody wants the answer any more (``time.monotonic()``).
    """

    priority: int = 0
    deadline: float = math.inf


NORMAL = Urgency()


def urgency_of(headers: Mapping[str, str], now: float, operator: bool = False) -> Urgency:
    """What the headers X-Priority and X-Deadline-Ms ask for.

    Args:
        headers: of the request, names in small letters.
        now: when it came (``time.monotonic()``).
        operator: whether it is an operator's.

    Raises:
        Rejection: neither a priority nor milliseconds, or a priority that is operators' alone.

    >>> urgency_of({"x-priority": "low", "x-deadline-ms": "500"}, now=100.0)
    Urgency(priority=-1, deadline=100.5)
    """
    name, milliseconds = headers.get("x-priority", "normal"), headers.get("x-deadline-ms")
    if name not in PRIORITIES:
        raise Rejection("invalid", f"X-Priority: one of {', '.join(PRIORITIES)}, not {name[:80]!r}")
    if name == "high" and not operator:
        raise Rejection("forbidden", "X-Priority: high is for operators")
    if milliseconds is None:
        return Urgency(priority=PRIORITIES[name])
    if not (re.fullmatch("[0-9]{1,9}", milliseconds) and 1 <= int(milliseconds) <= LONGEST_MS):
        raise Rejection("invalid", f"X-Deadline-Ms: milliseconds from 1 to {LONGEST_MS}, not {milliseconds[:80]!r}")
    return Urgency(priority=PRIORITIES[name], deadline=now + int(milliseconds) / 1000)
