"""How a SQLite file and each connection to it are set up: with a write-ahead log where the file system allows one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

_SECONDS = 10.0
"""How long one writer waits for others."""
_PAUSE = 0.05
_WRITE_AHEAD = 2
"""What byte 18 of a SQLite file says where it has a write-ahead log."""


def prepare_file(path: Path) -> None:
    """Make the file, and choose its journal, which the file remembers.

    With a write-ahead log readers do not wait for writers. It needs shared memory beside the file, which network file
    systems lack; there SQLite's older journal does the same, one at a time. A file that has the older one keeps it.

    Raises:
        OSError, sqlite3.OperationalError: the file can be neither made nor written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # it may hold pictures
    with path.open("rb") as file:
        start = file.read(19)
    if len(start) > 18 and start[18] != _WRITE_AHEAD:  # of a shorter one SQLite says that it is no database
        return
    try:
        _patiently(lambda: _run(path, "PRAGMA journal_mode=WAL", "BEGIN IMMEDIATE", "ROLLBACK"))
    except sqlite3.OperationalError as error:
        if _is_busy(error):
            raise
        # Whoever has the file alone from the beginning needs no shared memory to leave this mode.
        _patiently(
            lambda: _run(path, "PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=DELETE", "BEGIN IMMEDIATE", "COMMIT")
        )


def prepare_connection(connection: Any, _record: Any = None) -> None:
    """Set up a new connection: durable commits, patience with other writers, deleted pictures overwritten."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={1000 * _SECONDS:.0f}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


def _patiently(work: Callable[[], None]) -> None:
    """Changing the journal needs the file alone for a moment, and SQLite does not wait for that by itself."""
    end = time.monotonic() + _SECONDS
    while True:
        try:
            work()
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > end:
                raise
            time.sleep(_PAUSE)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
