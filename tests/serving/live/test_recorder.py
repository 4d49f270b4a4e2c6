from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

from serving.errors import Rejection
from serving.ids import new_id
from serving.live.no_store import open_store
from serving.live.recorder import Recorder, sampled
from serving.live.records import StoredAnswer
from serving.live.store import Store
from serving.settings import ServingSettings
from tests.serving.live.records import kept, stored, until


def test_the_recorder_waits_for_a_database_that_was_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([OSError("away"), OSError("away")])
    write = store.add_answers

    def sometimes(*arguments: object) -> None:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "add_answers", sometimes)
    recorder = Recorder(store, ServingSettings())
    recorder.add(stored("a"), None)
    until(lambda: store.add_label("a", "n", 3) is not None)
    recorder.close()
    assert next(failures, None) is None, "it tried again after each"
    assert [row.id for row in store.labels("n", 10)] == ["a"]


def test_no_picture_is_kept_while_the_database_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    away = threading.Event()
    away.set()
    write = store.add_answers

    def sometimes(*arguments: object) -> None:
        if away.is_set():
            raise OSError("away")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "add_answers", sometimes)
    recorder = Recorder(store, ServingSettings())
    assert recorder.keeps("b", True, 100)
    recorder.add(stored("a"), None)
    until(lambda: not recorder.keeps("b", True, 100))
    away.clear()
    until(lambda: recorder.keeps("b", True, 100))
    recorder.close()


def test_what_is_kept_already_counts_from_the_start(store: Store) -> None:
    store.add_answers([stored("a")], [("a", b"x" * 600_000)], 60)
    recorder = Recorder(store, ServingSettings(keep_mib=1))
    until(lambda: not recorder.keeps("b", True, 600_000))
    assert recorder.keeps("b", True, 400_000), "there is room for this one"
    recorder.close()


def test_what_is_kept_already_counts_once_a_database_that_was_away_at_the_start_is_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_answers([stored("a")], [("a", b"x" * 600_000)], 60)
    count, asked = store.kept_bytes, threading.Event()

    def sometimes() -> int:
        if not asked.is_set():
            asked.set()
            raise OSError("away")
        return count()

    monkeypatch.setattr(store, "kept_bytes", sometimes)
    recorder = Recorder(store, ServingSettings(keep_mib=1))
    assert asked.wait(30)
    assert recorder.keeps("b", True, 600_000), "nobody knows yet"
    recorder.add(stored("c"), None)
    until(lambda: not recorder.keeps("b", True, 600_000))
    recorder.close()


def test_the_event_loop_never_waits_for_the_database_to_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, go_on = threading.Event(), threading.Event()

    def count() -> int:
        counting.set()
        go_on.wait(30)
        raise OSError("away")

    monkeypatch.setattr(store, "kept_bytes", count)
    recorder = Recorder(store, ServingSettings(keep_mib=1))
    recorder.add(stored("a"), b"x" * 600_000)
    assert counting.wait(30)
    began = time.monotonic()
    assert not recorder.keeps("b", True, 600_000), "what is being written counts already"
    assert recorder.keeps("b", True, 100_000)
    assert time.monotonic() - began < 5
    go_on.set()
    recorder.close()
    assert recorder.keeps("b", True, 400_000), "it is counted once, though the database could not be asked"


def test_images_are_kept_only_if_asked_sampled_and_there_is_room(store: Store) -> None:
    def keeps(asked: bool, size: int = 100, **options: object) -> bool:
        recorder = Recorder(store, ServingSettings(**options))  # type: ignore[arg-type]
        try:
            return recorder.keeps("some id", asked, size)
        finally:
            recorder.close()

    assert keeps(True)
    assert not keeps(False)
    assert keeps(False, keep="all")
    assert not keeps(True, keep="never")
    assert not keeps(True, evaluate_share=0.0)
    assert not keeps(True, size=3 * 2**20, keep_mib=2)


def test_the_sampled_share_is_what_was_asked_for() -> None:
    ids = [new_id() for _ in range(4000)]
    assert np.mean([sampled(id_, 0.25) for id_ in ids]) == pytest.approx(0.25, abs=0.03)
    assert all(sampled(id_, 1.0) for id_ in ids)


def test_the_recorder_writes_what_it_was_given(store: Store) -> None:
    recorder = Recorder(store, ServingSettings())
    ids = [new_id() for _ in range(300)]
    for id_ in ids:
        recorder.add(stored(id_), b"image" if id_ == ids[0] else None)
    recorder.close()
    assert kept(store) == [ids[0]]
    assert all(store.add_label(id_, "n", 3) for id_ in ids[::50])


def test_answers_that_a_database_does_not_take_at_the_end_are_counted_and_the_end_comes(
    store: Store, monkeypatch: pytest.MonkeyPatch, heard: list[logging.LogRecord]
) -> None:
    def away(*arguments: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(store, "add_answers", away)
    monkeypatch.setattr("serving.live.recorder._ENDING", 0.3)
    recorder = Recorder(store, ServingSettings())
    for number in range(5):
        recorder.add(stored(f"{number}"), None)
    recorder.close()
    assert [record.facts["answers"] for record in heard] == [5]  # type: ignore[attr-defined]


def test_rows_are_not_tried_one_by_one_for_minutes_where_each_waits_for_a_lock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def locked(answers: list[object], *others: object) -> None:
        tried.append(len(answers))
        time.sleep(0.05)
        raise OSError("locked")

    monkeypatch.setattr(store, "add_answers", locked)
    monkeypatch.setattr("serving.live.recorder._ENDING", 0.01)
    monkeypatch.setattr("serving.live.recorder._SINGLY", 0)
    recorder = Recorder(store, ServingSettings())
    for number in range(10):
        recorder.add(stored(f"{number}"), None)
    recorder.close()
    assert tried
    assert len(tried) < 10


def test_rows_in_hand_survive_a_death_of_the_recorder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([RuntimeError("a bug")])
    write = Recorder._write

    def dying(recorder: Recorder, singly: bool) -> bool:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return write(recorder, singly)

    monkeypatch.setattr(Recorder, "_write", dying)
    recorder = Recorder(store, ServingSettings())
    recorder.add(stored("a"), None)
    until(lambda: store.add_label("a", "n", 3) is not None)
    recorder.close()
    assert next(failures, None) is None


def test_a_store_that_keeps_nothing_keeps_no_pictures() -> None:
    nothing = open_store("none")
    recorder = Recorder(nothing, ServingSettings(keep="all"))
    assert not recorder.keeps("some id", True, 100)
    assert recorder.add(stored("a"), None)
    recorder.close()
    assert nothing.counts("n") == (0, 0)
    with pytest.raises(Rejection, match="SERVING_DATABASE=none"):
        nothing.add_label("a", "n", 3)


def test_a_database_that_goes_away_between_rows_tried_one_by_one_loses_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, heard: list[logging.LogRecord]
) -> None:
    """Seen when PostgreSQL was killed again and again: rows behind one that was stored were taken for bad ones."""
    write, single = store.add_answers, 0

    def sometimes(answers: list[object], *more: object) -> None:
        nonlocal single
        if len(answers) > 1:
            raise ValueError("one of them")
        single += 1
        if single in (2, 3):
            raise OSError("away")
        write(answers, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "add_answers", sometimes)
    recorder = Recorder(store, ServingSettings())
    for name in "abc":
        recorder.add(stored(name), None)
    until(lambda: all(store.add_label(name, "n", 3) is not None for name in "abc"))
    recorder.close()
    assert [record for record in heard if "refuses an answer" in record.getMessage()] == []


def test_a_database_that_comes_back_between_rows_tried_one_by_one_loses_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, heard: list[logging.LogRecord]
) -> None:
    """And one that is back is not kept from what waited by a transaction for each row."""
    write, calls = store.add_answers, list[int]()

    def back_at_last(answers: list[object], *more: object) -> None:
        calls.append(len(answers))
        if len(calls) <= 3:
            raise OSError("away")
        write(answers, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "add_answers", back_at_last)
    monkeypatch.setattr("serving.live.recorder._SINGLY", 0)
    recorder = Recorder(store, ServingSettings())
    names = [f"{number}" for number in range(500)]
    for name in names:
        recorder.add(stored(name), None)
    recorder.close()
    assert all(store.add_label(name, "n", 3) is not None for name in names)
    assert [record for record in heard if "refuses an answer" in record.getMessage()] == []
    assert len(calls) < 50


def test_a_database_that_comes_and_goes_loses_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, heard: list[logging.LogRecord]
) -> None:
    write, calls = store.add_answers, list[int]()

    def coming_and_going(answers: list[object], *more: object) -> None:
        calls.append(len(answers))
        if len(calls) < 12 and len(calls) != 3:
            raise OSError("away")
        write(answers, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "add_answers", coming_and_going)
    monkeypatch.setattr("serving.live.recorder._SINGLY", 0)
    recorder = Recorder(store, ServingSettings())
    for name in "abcdef":
        recorder.add(stored(name), None)
    until(lambda: all(store.add_label(name, "n", 3) is not None for name in "abcdef"))
    recorder.close()
    assert [record for record in heard if "refuses an answer" in record.getMessage()] == []
    assert len(calls) >= 12


def test_among_many_rows_only_the_bad_ones_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what the database says of them reads as if it were away."""
    write, bad = store.add_answers, {"0", "77", "78", "499"}

    def picky(answers: list[StoredAnswer], *more: object) -> None:
        if bad & {answer.id for answer in answers}:
            raise OSError("the connection broke")
        write(answers, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "add_answers", picky)
    monkeypatch.setattr("serving.live.recorder._SINGLY", 0)
    recorder = Recorder(store, ServingSettings())
    for number in range(501):
        recorder.add(stored(f"{number}"), None)
    recorder.close()
    assert {f"{n}" for n in range(501) if store.add_label(f"{n}", "n", 3) is None} == bad
