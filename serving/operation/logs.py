"""Structured logs: one JSON object a line on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOGGER = logging.getLogger("serving")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(level: str) -> None:
    """Send the service's log to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False
    LOGGER.disabled = False  # libraries that set up logging for themselves disable all others


def event(message: str, level: int = logging.INFO, facts: Mapping[str, Any] | None = None) -> None:
    """Log a message with facts as further keys of its line."""
    LOGGER.log(level, message, extra={"facts": dict(facts or {})})


@dataclass
class Notes:
    """What is known of the request at hand.

    Attributes:
        id: of the request.
        facts: for its line in the log.
        moments: parts of it, each a name and when it began and ended in nanoseconds since 1970; for its trace.
    """

    id: str
    facts: dict[str, Any] = field(default_factory=dict)
    moments: list[tuple[str, int, int]] = field(default_factory=list)


_SELDOM = 10.0
_said: dict[str, float] = {}


def seldom(what: str, message: str, level: int = logging.WARNING, facts: Mapping[str, Any] | None = None) -> None:
    """Log a message that may be true a thousand times a second: once in ten seconds for each ``what``."""
    now = time.monotonic()
    if now - _said.get(what, -_SELDOM) >= _SELDOM:
        _said[what] = now
        event(message, level, facts)
