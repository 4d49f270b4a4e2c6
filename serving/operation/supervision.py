"""Parts of a worker that run as long as it does: whose death is noticed, counted, logged, and followed by a new life.

A part that keeps dying is either tried for ever, ever less often, or gives up: then the worker is not ready, and is told to
stop, so that whoever supervises the process starts another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from serving.operation import metrics
from serving.operation.logs import LOGGER, event


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a part rests between a death and its next life.

    Attributes:
        first: seconds, doubled at every death.
        longest: seconds, at most.
        healthy: seconds of life after which earlier deaths are forgotten.

    Raises:
        ValueError: times that are not positive, or a first longer than the longest.
    """

    first: float = 0.1
    longest: float = 30.0
    healthy: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest or self.healthy <= 0:
            raise ValueError(f"0 < first <= longest and 0 < healthy, not {self}")

    def pauses(self) -> Iterator[float]:
        """The pauses, one after another, without end.

        >>> from itertools import islice
        >>> list(islice(Backoff(first=1, longest=5).pauses(), 5))
        [1, 2, 4, 5, 5]
        """
        pause = self.first
        while True:
            yield pause
            pause = min(2 * pause, self.longest)


def end_this_worker() -> None:
    """Have this process end as the operator would end it; its supervisor starts another."""
    os.kill(os.getpid(), signal.SIGTERM)


class _Lives:
    """The deaths of one part: counts and logs them, and says how long to rest."""

    def __init__(self, name: str, backoff: Backoff) -> None:
        self.name, self.deaths = name, 0
        self._backoff, self._pauses, self._said = backoff, backoff.pauses(), ""
        self.began = time.monotonic()

    def died(self, error: Exception | None) -> float:
        if time.monotonic() - self.began > self._backoff.healthy:
            self.deaths, self._pauses, self._said = 0, self._backoff.pauses(), ""
        self.deaths += 1
        metrics.RESTARTS.labels(self.name).inc()
        pause = next(self._pauses)
        reason = "it returned" if error is None else f"{type(error).__name__}: {error}"
        if reason != self._said:  # a part that dies of the same thing again and again is a metric, not a log
            self._said = reason
            facts = {"part": self.name, "reason": reason, "deaths": self.deaths}
            LOGGER.error("a part of the service died; it is started again", exc_info=error, extra={"facts": facts})
        return pause


class SupervisedThread:
    """A thread that is started again whenever its work ends before it is asked to.

    Args:
        name: of the part, in metrics and logs.
        work: called with an event; returns soon after that is set.
        backoff: how long it rests after a death.
    """

    def __init__(self, name: str, work: Callable[[threading.Event], None], *, backoff: Backoff | None = None) -> None:
        self._work, self._lives = work, _Lives(name, backoff or Backoff())
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def deaths(self) -> int:
        """How often it died since it was last healthy for a while."""
        return self._lives.deaths

    def close(self) -> None:
        """Ask the work to end, and wait for it."""
        self._stopped.set()
        self._thread.join()

    def _live(self) -> None:
        while True:
            error: Exception | None = None
            self._lives.began = time.monotonic()
            try:
                self._work(self._stopped)
            except Exception as found:
                error = found
            if self._stopped.is_set() and error is None:
                return
            # Work that dies while it is to end has one more life, to finish what it holds.
            pause = self._lives.died(error)
            if self._stopped.is_set():
                if self._lives.deaths > 2:
                    return
                continue
            self._stopped.wait(pause)


async def supervised(
    name: str,
    work: Callable[[], Awaitable[None]],
    *,
    ended: Callable[[], bool],
    backoff: Backoff | None = None,
    lives: int = 5,
    give_up: Callable[[], None],
) -> None:
    """Await ``work()`` again whenever it ends too soon.

    Args:
        name: of the part, in metrics and logs.
        work: makes the coroutine of one life.
        ended: whether it was to end.
        backoff: how long it rests after a death.
        lives: deaths in a row after which it gives up and returns.
        give_up: called then.

    Example:
        >>> done = []
        >>> async def work() -> None:
        ...     done.append(1)
        >>> asyncio.run(supervised("example", work, ended=lambda: True, give_up=lambda: None))
        >>> len(done)
        1
    """
    history = _Lives(name, backoff or Backoff())
    while True:
        error: Exception | None = None
        history.began = time.monotonic()
        try:
            await work()
        except Exception as found:
            error = found
        if error is None and ended():
            return
        pause = history.died(error)
        if history.deaths >= lives:
            event("a part of the service keeps dying: this worker ends", logging.CRITICAL, {"part": name})
            give_up()
            return
        await asyncio.sleep(pause)
