from __future__ import annotations

import threading

import pytest

from serving.live.store import Store
from serving.live.tidying import Tidying
from serving.settings import ServingSettings
from tests.serving.live.records import kept, stored, until


def test_it_tidies_at_the_start_and_lives_on_while_the_database_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.live.tidying._SECONDS", 0.01)
    forget, failed = store.forget, threading.Event()

    def sometimes(*arguments: object) -> tuple[int, int]:
        if not failed.is_set():
            failed.set()
            raise OSError("away")
        return forget(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "forget", sometimes)
    store.add_answers([stored(str(number)) for number in range(5)], [("0", b"x")], -1)
    tidying = Tidying(store, ServingSettings(keep_rows=3))
    until(lambda: kept(store) == [])
    until(lambda: store.add_label("0", "n", 3) is None)
    assert tidying._part.deaths == 0
    tidying.close()
