"""Connections shared evenly among the worker processes."""

from __future__ import annotations

import asyncio
from typing import Any


def accept_one_at_a_time(loop: asyncio.AbstractEventLoop) -> None:
    """Let a worker take one new connection at a time instead of all that wait.

    All workers listen on one socket, and asyncio accepts up to ``backlog`` connections at once: of a load balancer's sixteen
    lasting connections the worker that woke first kept all, and the others idled. Asyncio offers no setting, so this changes
    the loop at hand; a loop of another kind is left alone. Call it before the server starts.
    """
    start = getattr(loop, "_start_serving", None)
    if start is None:
        return

    def start_serving(factory: Any, sock: Any, ssl: Any = None, server: Any = None, backlog: int = 1, *more: Any) -> None:
        start(factory, sock, ssl, server, 1, *more)

    loop._start_serving = start_serving  # type: ignore[attr-defined]
