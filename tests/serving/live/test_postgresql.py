"""A PostgreSQL server that goes, comes back, or takes no writes."""

from __future__ import annotations

import logging
import time

import pytest
import sqlalchemy as sa

from serving.live.database import DatabaseAway
from serving.live.recorder import Recorder
from serving.live.store import Store
from serving.settings import ServingSettings
from tests.serving.live.conftest import PostgreSQL
from tests.serving.live.records import stored, until


def test_a_killed_server_s_answers_wait_and_the_log_says_so_once(
    postgresql: PostgreSQL, heard: list[logging.LogRecord]
) -> None:
    store = Store(postgresql.new_database())
    recorder = Recorder(store, ServingSettings())
    recorder.add(stored("before"), None)
    until(lambda: store.add_label("before", "n", 3) is not None)
    postgresql.stop()
    recorder.add(stored("during"), None)
    for _ in range(3):
        with pytest.raises((DatabaseAway, sa.exc.SQLAlchemyError)):
            store.add_label("before", "n", 3)
        time.sleep(0.6)
    postgresql.start()
    until(lambda: _labelled(store, "during"))
    recorder.close()
    said = [record.getMessage().partition(":")[0] for record in heard if "database" in record.getMessage()]
    assert said == ["the database fails, and is tried again", "the database works again"]
    store.close()


def _labelled(store: Store, id_: str) -> bool:
    try:
        return store.add_label(id_, "n", 3) is not None
    except (DatabaseAway, sa.exc.SQLAlchemyError):
        return False


def test_no_answer_is_lost_to_a_server_that_takes_no_writes_for_a_while(
    postgresql: PostgreSQL, heard: list[logging.LogRecord]
) -> None:
    """A standby after a failover, a managed server whose disk is full: its refusals are no operational errors."""
    url = postgresql.new_database()
    store = Store(url)
    store.prepare()

    def write(allowed: bool) -> None:
        engine = sa.create_engine(url, connect_args={"options": "-c default_transaction_read_only=off"})
        with engine.begin() as connection:
            setting = (
                f"ALTER DATABASE {engine.url.database} SET default_transaction_read_only = {'off' if allowed else 'on'}"
            )
            connection.exec_driver_sql(setting)
        engine.dispose()
        store.engine.dispose()

    write(allowed=False)
    recorder = Recorder(store, ServingSettings())
    recorder.add(stored("a"), None)
    until(lambda: bool(heard))
    with pytest.raises((DatabaseAway, sa.exc.SQLAlchemyError)):
        store.labels("n", 10)  # reading alone does not make it well
    write(allowed=True)
    until(lambda: _labelled(store, "a"))
    recorder.close()
    said = [record.getMessage().partition(":")[0] for record in heard]
    assert said == ["the database fails, and is tried again", "the database works again"]
    store.close()


def test_a_server_that_is_gone_without_a_word_is_given_up_in_seconds(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    for more, expected in (("", "15000"), ("?tcp_user_timeout=500", "500")):
        store = Store(url + more)
        with store.engine.connect() as connection:
            parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert (parameters["tcp_user_timeout"], parameters["keepalives_idle"]) == (expected, "10")
        store.close()
