from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from dynamic.errors import UserError
from serving.live.store import Store, in_database
from tests.serving.live.records import evaluation, kept, labelled, stored


def test_a_label_is_stored_with_what_was_answered_and_a_second_one_replaces_it(store: Store) -> None:
    store.add_answers([stored("a"), stored("b")])
    assert store.add_label("a", "n", 3) == labelled(3, 3)
    assert store.add_label("a", "n", 4) == labelled(3, 4)
    assert [row.label for row in store.labels("n", 10)] == [4]
    assert store.add_label("nobody", "n", 3) is None


def test_another_process_reads_what_was_acknowledged(store: Store) -> None:
    store.add_answers([stored("a")])
    store.add_label("a", "n", 3)
    other = Store(str(store.engine.url))
    assert len(other.labels("n", 10)) == 1
    other.close()


def test_an_image_is_claimed_once_until_its_time_is_over(store: Store) -> None:
    store.add_answers([stored("a"), stored("b")])
    store.add_answers([], [("a", b"x"), ("b", b"y")], 60)
    assert store.claim("n", 60) is None, "no label yet"
    store.add_label("a", "n", 3)
    assert store.claim("other network", 60) is None
    claimed = store.claim("n", 0.2)
    assert claimed is not None
    assert claimed[1] == b"x"
    assert store.claim("n", 60) is None
    time.sleep(0.3)
    assert store.claim("n", 60) is not None, "whoever had it was killed"


def test_an_image_is_deleted_once_it_was_evaluated_or_its_time_is_over(store: Store) -> None:
    store.add_answers([stored("a"), stored("b"), stored("c")])
    store.add_answers([], [("a", b"x"), ("b", b"y")], 60)
    store.add_answers([], [("c", b"z")], -1)
    assert store.kept_bytes() == 3
    store.add_label("a", "n", 3)
    assert store.add_evaluation("n", evaluation("a", True, {"c": True}), 3)
    assert kept(store) == ["b", "c"]
    assert store.forget(answers_before=time.time() - 60) == (1, 0)
    assert kept(store) == ["b"]
    store.forget(answers_before=time.time() + 1)
    assert store.add_label("b", "n", 3) is None, "its label came too late"
    assert len(store.labels("n", 10)) == 1, "labels stay"


def test_a_corrected_label_takes_its_evaluation_back(store: Store) -> None:
    store.add_answers([stored("a")])
    store.add_label("a", "n", 3)
    assert store.add_evaluation("n", evaluation("a", True, {"c": True}), 3)
    assert len(store.evaluations("n", 10)) == 1
    store.add_label("a", "n", 4)
    assert store.evaluations("n", 10) == []


def test_a_label_stored_twice_keeps_its_evaluation(store: Store) -> None:
    store.add_answers([stored("a")])
    store.add_label("a", "n", 3)
    assert store.add_evaluation("n", evaluation("a", True, {"c": True}), 3)
    store.add_label("a", "n", 3)
    assert len(store.evaluations("n", 10)) == 1
    assert len(store.labels("n", 10)) == 1


def test_a_released_image_can_be_claimed_again_at_once(store: Store) -> None:
    store.add_answers([stored("a")], [("a", b"x")], 60)
    store.add_label("a", "n", 3)
    assert store.claim("n", 600) is not None
    store.release("a")
    assert store.claim("n", 600) is not None


def test_a_label_that_changes_while_its_image_is_evaluated_makes_it_be_evaluated_again(store: Store) -> None:
    store.add_answers([stored("a")], [("a", b"x")], 60)
    store.add_label("a", "n", 3)
    assert store.claim("n", 600) is not None
    store.add_label("a", "n", 4)
    assert not store.add_evaluation("n", evaluation("a", True, {"c": True}), 3)
    again = store.claim("n", 600)
    assert again is not None
    assert again[0].label == 4


def test_another_network_cannot_label_an_answer(store: Store) -> None:
    store.add_answers([stored("a")])
    assert store.add_label("a", "another network", 281) is None


def test_nothing_of_a_deleted_picture_is_left_on_disk(store: Store) -> None:
    secret = b"a picture nobody should find" * 50
    store.add_answers([stored("a")], [("a", secret)], -1)
    store.forget(answers_before=0)
    files = list(Path(str(store.engine.url.database)).parent.iterdir())
    assert files
    assert all(secret[:28] not in path.read_bytes() for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "sqlite:////proc/nowhere/x.db", "nosuch://user:secret@host/db"])
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url: str) -> None:
    with pytest.raises(UserError) as wrong:
        Store(url).prepare()
    assert "secret" not in str(wrong.value)


def test_a_database_that_hangs_takes_no_other_threads() -> None:
    go_on = threading.Event()

    async def main() -> None:
        hanging = [asyncio.create_task(in_database(go_on.wait)) for _ in range(40)]
        try:
            await asyncio.sleep(0.05)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 10) == "free"
        finally:
            go_on.set()
            await asyncio.gather(*hanging)

    asyncio.run(main())


def test_answers_of_an_outage_may_still_come_for_a_while_behind_it(store: Store) -> None:
    now = time.time()
    assert store.late(now - 5)
    assert not store.late(now - 100)
    store._database.outage = (now - 120, float("inf"))
    assert store.late(now - 100)
    store._database.outage = (now - 120, now - 5)
    assert store.late(now - 100)
    assert not store.late(now - 300)
    store._database.outage = (now - 120, now - 60)
    assert not store.late(now - 100)


def test_an_outage_is_noted_with_its_end(store: Store) -> None:
    began = time.time()
    store._database._fails("gone")
    store._database._fails("gone still")
    assert began <= store._database.outage[0] <= time.time()
    assert store._database.outage[1] == float("inf")
    assert store.kept_bytes() == 0
    assert store._database.outage[1] <= time.time()
