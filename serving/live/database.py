"""A database that may be away when the service starts, and may go and come: opened when first asked."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from dynamic.errors import UserError
from serving.live.migrations import VERSION_TABLE, migrate
from serving.live.sqlite import prepare_connection, prepare_file
from serving.operation import metrics
from serving.operation.logs import LOGGER, event

NONE = "none"
"""Instead of a URL: nothing is stored."""

_RETRY = 1.0
"""Seconds after which a database that could not be opened is tried again."""

_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""Seconds (of the last milliseconds) until a server that is gone without a word is given up; otherwise the threads that
ask it would hang for a quarter of an hour. What a URL says itself comes first."""


class DatabaseAway(Exception):  # noqa: N818, whether it is an error its caller decides
    """The database cannot be opened at present; the message says why."""


def is_away(error: BaseException) -> bool:
    """Whether an error is the database's as a whole and no row's, so that trying later helps.

    A server that takes no writes for a while, or a role that lost its rights, is so too.
    """
    if isinstance(error, DatabaseAway | sa.exc.TimeoutError | OSError):
        return True
    return isinstance(error, sa.exc.DBAPIError) and not isinstance(error, sa.exc.DataError | sa.exc.IntegrityError)


class Database:
    """Transactions on one database; safe to use from several threads and processes.

    The first transaction brings its tables to the newest schema. Whoever meets a failure gets the exception; the log has one
    line when the database fails and one when it is back, and ``serving_database_up`` says which it is.

    Args:
        url: of SQLite or PostgreSQL; a SQLite file's folder is made.

    Attributes:
        outage: when this process met the latest outage and when its end, seconds since 1970; infinity while it lasts.

    Raises:
        UserError: a URL that cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._url = check_url(url)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        query = self._url.query
        arguments = {} if self._is_sqlite else {name: value for name, value in _POSTGRESQL.items() if name not in query}
        self.engine = sa.create_engine(self._url, pool_pre_ping=True, connect_args=arguments)
        if self._is_sqlite:
            sa.event.listen(self.engine, "connect", prepare_connection)
        self._lock = threading.Lock()
        self._prepared = False
        self._file: tuple[int, int] | None = None
        self._failing: str | None = None
        self.outage = (0.0, 0.0)
        self._tried = 0.0

    def prepare(self) -> None:
        """Open the database and bring its tables to the newest schema, now.

        Raises:
            UserError: it cannot be opened, or its tables are another program's or a newer version's.
        """
        try:
            if self._is_sqlite:
                prepare_file(Path(str(self._url.database)))
            with self.engine.begin() as connection:
                migrate(connection)
                # One that can only be read (a full disk, a standby) would else seem to be back with every read.
                connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = version_num"))
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            self.engine.dispose()
            raise UserError(f"SERVING_DATABASE={masked(self._url)} cannot be opened: {first_line(error)}") from error
        except UserError as error:
            self.engine.dispose()
            raise UserError(f"SERVING_DATABASE={masked(self._url)} cannot be used: {error}") from None
        self._file = self._identity()
        self._prepared = True

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end of the block.

        Raises:
            DatabaseAway: the database cannot be opened.
            sqlalchemy.exc.SQLAlchemyError: whatever else goes wrong in it.
        """
        self._open()
        try:
            with self.engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            if is_away(error):  # a table that is gone is one of these too, and is made again
                self._prepared = False
                self._fails(first_line(error))
            raise
        self._works()

    def _open(self) -> None:
        if self._prepared and self._identity() == self._file:
            return
        with self._lock:
            if self._prepared and self._identity() != self._file:
                event("the database's file was deleted or replaced: another is begun", logging.ERROR)
                self.engine.dispose()
                self._prepared = False
            if self._prepared:
                return
            if time.monotonic() - self._tried < _RETRY and self._failing is not None:
                raise DatabaseAway(self._failing)
            try:
                self.prepare()
            except UserError as error:
                self._tried = time.monotonic()
                self._fails(str(error))
                raise DatabaseAway(str(error)) from error

    def _identity(self) -> tuple[int, int] | None:
        """Which file SQLite's path leads to: open connections write on into one that was deleted."""
        if not self._is_sqlite:
            return None
        try:
            found = os.stat(str(self._url.database))
        except OSError:
            return (0, 0)
        return found.st_dev, found.st_ino

    def _fails(self, reason: str) -> None:
        if self._failing is None:
            event(f"the database fails, and is tried again: {reason}", logging.ERROR)
            self.outage = (time.time(), float("inf"))
        self._failing = reason
        metrics.DATABASE_UP.set(0)

    def _works(self) -> None:
        if self._failing is not None:
            LOGGER.warning("the database works again")
            self.outage = (self.outage[0], time.time())
        self._failing = None
        metrics.DATABASE_UP.set(1)

    def truncate_log(self) -> None:
        """SQLite's write-ahead log holds what was deleted until it is truncated."""
        if self._is_sqlite and self._prepared:
            with self.engine.connect() as connection:
                connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))

    def close(self) -> None:
        """Release all connections."""
        with suppress(sa.exc.SQLAlchemyError):
            self.truncate_log()
        self.engine.dispose()


def check_url(url: str) -> sa.URL:
    """The URL with the driver that is used.

    Raises:
        UserError: it is none, of another database than SQLite and PostgreSQL, its driver is not installed, or it is a SQLite
            database in memory.

    >>> check_url("postgresql://user@host/serving").drivername
    'postgresql+psycopg'
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        name = parsed.get_backend_name()
        if name in ("sqlite", "postgresql"):
            if parsed.get_dialect().is_async:
                raise UserError(f"SERVING_DATABASE={masked(url)} names an asynchronous driver: begin it with {name}://")
            parsed.get_dialect().import_dbapi()
    except ImportError as error:
        hint = ": pip install 'learned-selector[postgresql]'" if "psycopg" in str(error) else ""
        raise UserError(f"SERVING_DATABASE={masked(url)} cannot be used: {first_line(error)}{hint}") from error
    except sa.exc.SQLAlchemyError as error:
        raise UserError(f"SERVING_DATABASE={masked(url)} cannot be used: {first_line(error)}") from error
    if name not in ("sqlite", "postgresql"):
        raise UserError(f"SERVING_DATABASE={masked(url)} must be of sqlite or postgresql, or {NONE}")
    if name == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError(
            f"SERVING_DATABASE={url} must be a file, such as sqlite:///runs/serving.db, since processes share it"
        )
    return parsed


def masked(url: str | sa.URL) -> str:
    """A URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return str(url).split("@")[-1]


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
