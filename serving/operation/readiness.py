"""Ready means that every worker which accepts connections answers; and a worker does not outlive its supervisor.

Each worker writes its state into the server's folder before it accepts connections. A worker that was killed accepts none,
and counts no more from the moment its process is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Literal

from serving.operation import metrics, server_folder
from serving.operation.logs import event

State = Literal["starting", "ready", "draining"]

_WATCH = 0.5
"""Seconds between two looks at whether the supervisor lives."""

_GRACE = 20.0
"""Seconds in which a worker whose supervisor is gone may end in order."""


class Readiness:
    """What this worker says of itself, and what the workers of this server say together.

    Args:
        folder: of the server, where they say it; unless given, it is alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder and folder / "workers"
        self._state: State | None = None

    @property
    def draining(self) -> bool:
        """Whether this worker still answers, but is about to end."""
        return self._state == "draining"

    def publish(self, state: State) -> None:
        """Say what this worker is now; on a full disk only this worker knows, and the log says so.

        One that is draining is ready no more.
        """
        if self.draining:
            state = "draining"
        self._state = state
        metrics.READY.set(float(state == "ready"))
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            whole = self._folder / f"{os.getpid()}.new"
            whole.write_text(f"{state} {server_folder.birth_of(os.getpid())}")
            os.replace(whole, self._folder / str(os.getpid()))
        except OSError as error:
            event(f"this worker cannot tell the others that it is {state}: {error}", logging.ERROR)

    def withdraw(self) -> None:
        """Say that this worker accepts no connections."""
        self._state = None
        metrics.READY.set(0)
        if self._folder is not None:
            with suppress(OSError):
                (self._folder / str(os.getpid())).unlink(missing_ok=True)

    def states(self) -> dict[int, str]:
        """State by process id of all workers that live; what dead ones said is removed."""
        return {} if self._folder is None else dict(server_folder.states(self._folder))

    def all_ready(self) -> bool:
        """Whether this worker and every other that accepts connections would answer a request."""
        states = self.states()
        if self._state is not None and os.getpid() not in states:  # whoever cleans temporary folders took it for forgotten
            self.publish(self._state)
        others = {state for pid, state in states.items() if pid != os.getpid()}
        return self._state == "ready" and others <= {"ready"}

    def others_ready(self) -> bool:
        """Whether some other worker is ready, so that this one can warm up before it accepts connections."""
        return any(state == "ready" for pid, state in self.states().items() if pid != os.getpid())


def end_with_the_supervisor() -> None:
    """Have this worker end when its supervisor was killed; otherwise it would hold the port. Nothing in other processes.

    What watches also looks now and then whether there is room for metrics by now, if there was none.
    """
    parent = server_folder.supervisor()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), name="supervisor-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        metrics.take_room()
        threading.Event().wait(_WATCH)
    event("the supervisor is gone: this worker ends", logging.ERROR)
    for _ in range(2):  # the second one skips the drain: nobody sends requests any more, and the port is wanted
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_WATCH)
    threading.Event().wait(_GRACE)
    os._exit(1)


def drain_first(seconds: float, begin: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
    """Let SIGTERM end this worker only after a while in which it is not ready but still answers.

    A load balancer needs that while to notice. A second signal ends it at once. Call it in the main thread, after the
    server has set its own handlers.

    Args:
        seconds: of the while; 0 leaves everything as it is.
        begin: called in the event loop as the while begins.
        loop: the event loop.
    """
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        return
    ends = signal.getsignal(signal.SIGTERM)
    if not callable(ends):
        return

    def drain(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, ends)
        loop.call_soon_threadsafe(begin)
        loop.call_soon_threadsafe(loop.call_later, seconds, os.kill, os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, drain)
