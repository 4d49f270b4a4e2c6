"""How often clients come: counted by all processes of a server together, in a file that they map into memory.

What is kept of a client is one number: when it will have its whole burst again. A request moves that time on by the pause
between two requests, and is refused where it would then lie further ahead than a burst lasts: a bucket that fills at the
rate, without a count to fill. Clients are known by a keyed digest, so that nobody chooses whom they share a row with.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import mmap
import os
import struct
import time
from pathlib import Path

from serving.errors import Rejection
from serving.operation.logs import event

_BURST = 10.0
"""Seconds' worth of requests that may come at once."""
_ROWS, _PLACES = 2048, 8
"""A client has a place in the row that its digest names; who finds none free takes that of who was quiet longest."""
_ROW = struct.Struct("<" + _PLACES * "8sd")
"""Of each place the client's digest, and when it will have its whole burst again, by the system's steady clock."""
_KEY = 32
"""Bytes of the digests' key, which the file begins with."""
_BYTES = _KEY + _ROWS * _ROW.size
_TRIES = 20


class Rate:
    """How often each client may come.

    Args:
        per_minute: on average, and at most ten seconds' worth at once; 0 for any number.
        file: that all processes share which count together; unless given, or where it cannot be made (then with a line in
            the log), this one counts alone.
    """

    def __init__(self, per_minute: float, file: Path | None = None) -> None:
        self._per_minute = per_minute
        if per_minute:
            self._pause = 60 / per_minute
            self._ahead = max(0.0, _BURST - self._pause)
            self._shared = _Shared(file)

    def check(self, client: str, now: float | None = None) -> None:
        """Count one request of a client; the event loop may: it takes microseconds.

        Args:
            client: its name.
            now: seconds of the system's steady clock, which all processes share; unless given, now.

        Raises:
            Rejection: it comes too often; with the seconds after which it may come again.
        """
        if not self._per_minute:
            return
        wait = self._shared.count(client, time.monotonic() if now is None else now, self._pause, self._ahead)
        if wait:
            message = f"more than {self._per_minute:g} requests a minute: send fewer"
            raise Rejection("rate_limited", message, retry_after=math.ceil(wait))


class _Shared:
    """The rows, in a file or in this process's own memory."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        try:
            if path is not None:
                self._file = _opened(path)
        except OSError as error:
            event(f"each process counts requests for itself: {path} cannot be made ({error.strerror})", logging.ERROR)
        self._rows = mmap.mmap(-1 if self._file is None else self._file, _BYTES)
        if self._file is None:
            self._rows[:_KEY] = os.urandom(_KEY)
        self._key = self._rows[:_KEY]

    def count(self, client: str, now: float, pause: float, ahead: float) -> float:
        """Count one request if it is allowed.

        Args:
            client: whose.
            now: seconds.
            pause: seconds that it takes of the client's burst.
            ahead: seconds that its time may lie ahead before it.

        Returns:
            Seconds until one is allowed; 0 where this one is.
        """
        digest = hashlib.blake2b(client.encode(errors="surrogatepass"), digest_size=10, key=self._key).digest()
        mark, at = digest[2:], _KEY + _ROW.size * (int.from_bytes(digest[:2], "little") % _ROWS)
        locked = self._lock()
        try:
            row = list(_ROW.unpack_from(self._rows, at))
            marks, times = row[::2], row[1::2]
            place = marks.index(mark) if mark in marks else times.index(min(times))
            # Never further ahead than what was counted can bring it: whatever the file holds, it is over in time.
            full = min(max(times[place], now), now + ahead + pause) if marks[place] == mark else now
            wait = full - now - ahead
            allowed = wait <= 1e-6
            row[2 * place : 2 * place + 2] = mark, full + pause * allowed
            _ROW.pack_into(self._rows, at, *row)
            return 0.0 if allowed else wait
        finally:
            if locked and self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        """Whether no other process counts now. One that was stopped in between holds nobody: a request may go uncounted."""
        if self._file is None:
            return True
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0)  # it may wait for this core
        return False


def _opened(path: Path) -> int:
    """Descriptor of a file of rows; its disk space is taken now, since a page that cannot be had later would kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_size < _BYTES:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, _BYTES)
            else:
                os.ftruncate(file, _BYTES)
            os.pwrite(file, os.urandom(_KEY), 0)
        fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        os.close(file)
        raise
    return file
