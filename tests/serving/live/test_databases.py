"""What holds on SQLite, with and without its write-ahead log, and on PostgreSQL alike."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from dynamic.errors import UserError
from serving.live.database import check_url
from serving.live.migrations import VERSION_TABLE
from serving.live.recorder import Recorder
from serving.live.store import LabelFixed, Store
from serving.live.tables import LABELS, METADATA
from serving.settings import ServingSettings
from tests.serving.live.conftest import PostgreSQL
from tests.serving.live.records import evaluation, kept, stored

FIRST_VERSION = """
CREATE TABLE answers (id VARCHAR(64) NOT NULL PRIMARY KEY, created DOUBLE PRECISION NOT NULL, network VARCHAR(200) NOT NULL,
    policy VARCHAR(64) NOT NULL, configuration VARCHAR(200) NOT NULL, predicted INTEGER NOT NULL,
    macs DOUBLE PRECISION NOT NULL);
CREATE INDEX ix_answers_created ON answers (created);
CREATE TABLE labels (id VARCHAR(64) NOT NULL PRIMARY KEY, created DOUBLE PRECISION NOT NULL, network VARCHAR(200) NOT NULL,
    policy VARCHAR(64) NOT NULL, configuration VARCHAR(200) NOT NULL, predicted INTEGER NOT NULL,
    macs DOUBLE PRECISION NOT NULL, label INTEGER NOT NULL);
CREATE INDEX ix_labels_created ON labels (created);
CREATE INDEX ix_labels_network ON labels (network);
CREATE TABLE images (id VARCHAR(64) NOT NULL PRIMARY KEY, expires DOUBLE PRECISION NOT NULL,
    claimed_until DOUBLE PRECISION NOT NULL, size INTEGER NOT NULL, data {BLOB} NOT NULL);
CREATE INDEX ix_images_expires ON images (expires);
CREATE TABLE evaluations (id VARCHAR(64) NOT NULL PRIMARY KEY, created DOUBLE PRECISION NOT NULL,
    network VARCHAR(200) NOT NULL, policy VARCHAR(64) NOT NULL, policy_right BOOLEAN NOT NULL,
    policy_macs DOUBLE PRECISION NOT NULL, "right" TEXT NOT NULL, oracle_macs DOUBLE PRECISION NOT NULL);
CREATE INDEX ix_evaluations_created ON evaluations (created);
CREATE INDEX ix_evaluations_network ON evaluations (network);
INSERT INTO answers VALUES ('a', 100.0, 'n', 'cascade', 'c', 3, 1e7);
INSERT INTO labels VALUES ('a', 200.0, 'n', 'cascade', 'c', 3, 1e7, 3);
INSERT INTO evaluations VALUES ('a', 300.0, 'n', 'cascade', TRUE, 1e7, '{{"c": true}}', 1e7);
"""
"""What the service made before it had migrations, and a row of each kind."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/serving.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    found = Store(url)
    yield found
    found.close()


def make_first_version(url: str) -> None:
    engine = sa.create_engine(url)
    blob = "BLOB" if engine.dialect.name == "sqlite" else "BYTEA"
    with engine.begin() as connection:
        for statement in FIRST_VERSION.format(BLOB=blob).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_database_of_the_first_version_is_upgraded_in_place_with_its_rows(url: str) -> None:
    make_first_version(url)
    store = Store(url)
    assert [row.id for row in store.labels("n", 10)] == ["a"]
    assert store.evaluations("n", 10)[0].right == {"c": True}
    assert store.add_label("a", "n", 3) is not None
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(LABELS)).mappings().one()
    assert (row["first"], row["changes"]) == (200.0, 0)
    store.add_answers([stored("b", network="n")])
    store.close()


def test_a_worker_of_the_first_version_writes_on_after_the_upgrade(url: str) -> None:
    """A rolling update mixes versions for a while."""
    make_first_version(url)
    store = Store(url)
    store.prepare()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM labels WHERE id = 'a'")
        connection.exec_driver_sql(
            "INSERT INTO labels (id, created, network, policy, configuration, predicted, macs, label) "
            "VALUES ('a', 400.0, 'n', 'cascade', 'c', 3, 1e7, 5)"
        )
    assert [row.label for row in store.labels("n", 10)] == [5]
    store.close()


def test_the_migrations_make_the_tables_that_the_code_asks(store: Store, url: str, tmp_path: Path) -> None:
    def described(engine: sa.Engine) -> dict[str, object]:
        inspector = sa.inspect(engine)
        return {
            name: (
                [(c["name"], c["nullable"], str(c["type"]).partition("(")[0]) for c in inspector.get_columns(name)],
                sorted((str(index["name"]), *index["column_names"]) for index in inspector.get_indexes(name)),
            )
            for name in METADATA.tables
        }

    store.prepare()
    migrated = described(store.engine)
    with store.engine.begin() as connection:
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
    made = described(store.engine)
    if "sqlite" in url:  # its types bind nothing, so the first version's stay
        text = {"VARCHAR": "TEXT"}
        for tables in (migrated, made):
            for name, (columns, indexes) in tables.items():  # type: ignore[misc]
                tables[name] = ([(c, n, text.get(t, t)) for c, n, t in columns], indexes)  # type: ignore[has-type]
    assert migrated == made


@pytest.mark.parametrize("old", [False, True])
def test_workers_that_start_together_migrate_once(url: str, old: bool) -> None:
    if old:
        make_first_version(url)
    stores = [Store(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda store: store.prepare(), stores))
    with stores[0].engine.connect() as connection:
        assert connection.execute(sa.text(f"SELECT count(*) FROM {VERSION_TABLE}")).scalar() == 1
    assert len(stores[0].labels("n", 10)) == old
    for store in stores:
        store.close()


def test_another_program_s_tables_are_left_alone_and_named(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE labels (id INTEGER PRIMARY KEY, text VARCHAR(10))")
    with pytest.raises(UserError, match="its table 'labels' has no column 'created': it is another program's") as wrong:
        Store(url).prepare()
    assert "\n" not in str(wrong.value)
    assert sa.inspect(engine).get_table_names() == ["labels"]
    assert [c["name"] for c in sa.inspect(engine).get_columns("labels")] == ["id", "text"]
    engine.dispose()


def test_a_newer_schema_is_refused(store: Store, url: str) -> None:
    store.prepare()
    with store.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(UserError, match="newer version"):
        Store(url).prepare()


def test_thirty_labels_of_one_answer_at_once_are_all_taken(store: Store) -> None:
    store.add_answers([stored("a")])
    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(lambda _: store.add_label("a", "n", 3), range(30)))
    assert all(row is not None and row.label == 3 for row in found)
    assert len(store.labels("n", 10)) == 1


def test_of_thirty_different_labels_at_once_only_so_many_count(store: Store) -> None:
    store.add_answers([stored("a")])

    def label(number: int) -> bool:
        try:
            return store.add_label("a", "n", number, changes=3) is not None
        except LabelFixed:
            return False

    with ThreadPoolExecutor(30) as pool:
        taken = list(pool.map(label, range(30)))
    assert sum(taken) == 4, "the first and three changes"
    assert len(store.labels("n", 10)) == 1


def test_a_label_is_changed_so_often_and_so_long_and_the_same_one_at_any_time(store: Store) -> None:
    store.add_answers([stored("a"), stored("b")])
    assert store.add_label("a", "n", 1, changes=1) is not None
    assert store.add_label("a", "n", 2, changes=1) is not None
    with pytest.raises(LabelFixed, match="changed 1 times already"):
        store.add_label("a", "n", 1, changes=1)
    assert store.add_label("a", "n", 2, changes=1) is not None
    store.add_label("b", "n", 1)
    with pytest.raises(LabelFixed, match="more than 0 s ago"):
        store.add_label("b", "n", 2, change_seconds=0.0)
    assert {row.id: row.label for row in store.labels("n", 10)} == {"a": 2, "b": 1}


def test_a_label_and_an_evaluation_of_one_image_at_once_do_not_block_each_other(store: Store) -> None:
    store.add_answers([stored("a")])
    store.add_label("a", "n", 0)
    failures: list[Exception] = []

    def often(work: Callable[[int], object]) -> None:
        try:
            for number in range(25):
                work(number)
        except Exception as error:
            failures.append(error)

    threads = [
        threading.Thread(target=often, args=(lambda n: store.add_label("a", "n", n % 2, changes=1000),)),
        threading.Thread(target=often, args=(lambda n: store.add_evaluation("n", evaluation("a", True, {"c": True}), 0),)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_long_names_are_stored_and_told_apart(store: Store) -> None:
    first, second = "x" * 5000 + "1", "x" * 5000 + "2"
    long = stored("a", network=first)
    store.add_answers([long.__class__(**{**vars(long), "policy": "p" * 300, "configuration": "c" * 3000})])
    assert store.add_label("a", second, 3) is None
    assert store.add_label("a", first, 3) is not None
    assert store.labels(first, 10)[0].policy == "p" * 300
    assert store.add_evaluation(first, evaluation("a", True, {"c": True}), 3)
    assert store.counts(first) == (1, 1)


def test_answers_may_be_stored_again(store: Store) -> None:
    for _ in range(2):
        store.add_answers([stored("a")], [("a", b"x")], 60)
    assert kept(store) == ["a"]


def test_one_bad_row_takes_no_other_with_it(store: Store, heard: list[logging.LogRecord]) -> None:
    recorder = Recorder(store, ServingSettings())
    ids = [f"{number:027x}" for number in range(40)]
    for position, id_ in enumerate(ids):
        recorder.add(stored(id_, predicted=2**80 if position == 17 else 3), b"picture" if position in (16, 17, 18) else None)
    recorder.close()
    assert [id_ for id_ in ids if store.add_label(id_, "n", 3) is None] == [ids[17]]
    assert sorted(kept(store)) == [ids[16], ids[18]]
    refused = [record for record in heard if "refuses an answer" in record.getMessage()]
    assert [record.facts["id"] for record in refused] == [ids[17]]  # type: ignore[attr-defined]


def test_the_oldest_rows_go_where_there_are_too_many_and_labels_after_their_time(store: Store) -> None:
    for number in range(10):
        store.add_answers([stored(f"{number}")])
        store.add_label(f"{number}", "n", 3)
        time.sleep(0.002)
    assert store.forget(0.0, most_rows=4) == (0, 12)
    assert {row.id for row in store.labels("n", 100)} == {"6", "7", "8", "9"}
    assert store.add_label("5", "n", 3) is None
    assert store.forget(0.0, labels_before=time.time() + 1) == (0, 4)
    assert store.labels("n", 100) == []


def test_tables_that_vanish_are_made_again(store: Store) -> None:
    store.add_answers([stored("a")])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {VERSION_TABLE}")
        METADATA.drop_all(connection)
    with pytest.raises(sa.exc.SQLAlchemyError):
        store.add_answers([stored("b")])
    time.sleep(1.1)
    store.add_answers([stored("b")])
    assert store.add_label("b", "n", 3) is not None


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://user:secret@host/db", "must be of sqlite or postgresql, or none"),
        ("nonsense", "cannot be used"),
        ("sqlite://", "must be a file"),
        ("postgresql+asyncpg://user:secret@host/db", "names an asynchronous driver: begin it with postgresql://"),
    ],
)
def test_a_url_that_cannot_be_used_is_named(url: str, named: str) -> None:
    with pytest.raises(UserError, match=named) as wrong:
        check_url(url)
    assert "secret" not in str(wrong.value)
