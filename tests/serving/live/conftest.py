from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from serving.live.store import Store
from tests.serving.conftest import free_port

SERVER = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
"""Debian's newest PostgreSQL, which is not on the path."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(f"sqlite:///{tmp_path}/deep/down/serving.db")
    yield found
    found.close()


class PostgreSQL:
    """A server in a temporary folder, run by an unprivileged user, since it refuses root."""

    def __init__(self) -> None:
        assert SERVER is not None
        self._bin = SERVER.parent
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._user = "nobody" if os.getuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)
        self.port = free_port()
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "serving", "-A", "trust", "-N", "-E", "UTF8")
        self.start()

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self._bin / name), *arguments]
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder} -c fsync=off -c max_connections=50"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        name = f"d{uuid.uuid4().hex}"
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://serving@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    if SERVER is None:
        pytest.skip("no PostgreSQL server below /usr/lib/postgresql (Debian's package postgresql)")
    server = PostgreSQL()
    yield server
    server.remove()
