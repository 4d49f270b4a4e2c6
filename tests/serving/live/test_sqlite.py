from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynamic.errors import UserError
from serving.live.database import Database
from serving.live.store import Store
from tests.serving.live.records import stored


@pytest.mark.parametrize("left_in_wal", [False, True])
def test_without_shared_memory_sqlite_falls_back_to_its_older_journal(tmp_path: Path, left_in_wal: bool) -> None:
    """A folder where SQLite's shared memory should be is refused as it is on a network file system."""
    path = tmp_path / "serving.db"
    if left_in_wal:
        before = Store(f"sqlite:///{path}")
        before.add_answers([stored("a")])
        before.close()
    Path(f"{path}-shm").mkdir()
    store, other = Store(f"sqlite:///{path}"), Store(f"sqlite:///{path}")
    store.add_answers([stored("a"), stored("b")])
    assert other.add_label("a", "n", 3) is not None
    assert store.add_label("b", "n", 3) is not None
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (store, other)[n % 2].add_answers([stored(f"c{n}")]), range(16)))
    store.close()
    other.close()


def test_sqlite_has_its_write_ahead_log_where_it_can(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/serving.db")
    with database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()


def test_a_deleted_file_is_noticed_in_one_line_and_begun_anew(tmp_path: Path, heard: list[logging.LogRecord]) -> None:
    store = Store(f"sqlite:///{tmp_path}/serving.db")
    store.add_answers([stored("a")])
    for path in tmp_path.glob("serving.db*"):
        path.unlink()
    store.add_answers([stored("b")])
    other = Store(f"sqlite:///{tmp_path}/serving.db")
    assert other.add_label("b", "n", 3) is not None, "it is in the file that is there"
    assert other.add_label("a", "n", 3) is None
    assert [r.getMessage() for r in heard] == ["the database's file was deleted or replaced: another is begun"]
    store.close()
    other.close()


@pytest.mark.parametrize("content", [b"no database", b"longer than nineteen bytes"])
def test_a_file_that_is_no_database_is_one_that_cannot_be_opened(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "serving.db"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be opened: .*file is not a database"):
        Database(f"sqlite:///{path}").prepare()
    assert path.read_bytes() == content
