"""Bodies on their way: how many, how long, and at what pace, so that a few stalled clients cannot refuse everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.errors import Rejection

_YOUNG = 1.0
"""Seconds in which no upload is given up for another one."""


class Uploads:
    """The bodies that are being read.

    Args:
        limit: how many at a time.
        seconds: that each may take.
        grace: seconds before its pace counts.
        pace: bytes a second that it must have brought on average since then; 0 for any.
    """

    def __init__(self, *, limit: int, seconds: float, grace: float, pace: float) -> None:
        self._limit, self._seconds, self._grace, self._pace = limit, seconds, grace, pace
        self._open: set[Upload] = set()

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Upload]:
        """Read one more body within it; tell the upload of every piece.

        Raises:
            Rejection: as many are read already, none of them slow; or this one takes too long, or is too slow.
        """
        loop = asyncio.get_running_loop()
        if len(self._open) >= self._limit:
            self._give_up_the_slowest(loop.time())
        upload = None
        try:
            async with asyncio.timeout(min(self._seconds, self._grace) if self._pace else self._seconds) as timeout:
                upload = Upload(loop, timeout, self._grace, self._pace, self._seconds)
                self._open.add(upload)
                yield upload
        except TimeoutError:
            assert upload is not None
            if loop.time() - upload.began >= self._seconds:
                raise Rejection("timeout", f"the body took more than {self._seconds:g} s: send a smaller one") from None
            message = f"the body came slower than {self._pace / 1024:g} KiB a second: send it faster"
            raise Rejection("timeout", message) from None
        finally:
            if upload is not None:
                self._open.discard(upload)

    def _give_up_the_slowest(self, now: float) -> None:
        slowest = min(self._open, key=lambda upload: upload.pace(now))
        if now - slowest.began < _YOUNG or slowest.pace(now) >= self._pace:
            raise Rejection("overloaded", f"{len(self._open)} uploads are read already: try again", retry_after=1)
        self._open.discard(slowest)
        slowest.give_up()


class Upload:
    """One body on its way; made by :meth:`Uploads.reading`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: asyncio.Timeout, grace: float, pace: float, seconds: float
    ) -> None:
        self._loop, self._timeout, self._grace, self._least, self._seconds = loop, timeout, grace, pace, seconds
        self.began, self.received = loop.time(), 0

    def add(self, size: int) -> None:
        """Count some bytes that came."""
        self.received += size
        if self._least and not self._timeout.expired():
            self._timeout.reschedule(self.began + min(self._seconds, self._grace + self.received / self._least))

    def pace(self, now: float) -> float:
        """Bytes a second until now."""
        return self.received / max(now - self.began, 1e-3)

    def give_up(self) -> None:
        """End it as if its time were over; it may just be over."""
        if not self._timeout.expired():
            self._timeout.reschedule(self._loop.time())
