from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sqlalchemy import select

from dynamic.errors import UserError
from serving.inference.deployment import Served
from serving.live.live import Evaluator, Recorder, evaluate, live_gap, sampled
from serving.live.store import IMAGES, Answer, Evaluated, Labelled, Store, new_id
from serving.settings import ServingSettings
from tests.plain_loop import plain_loop


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(f"sqlite:///{tmp_path}/deep/down/serving.db")
    yield found
    found.close()


def stored(id_: str, predicted: int = 3, network: str = "n") -> Answer:
    return Answer(id_, network, "cascade", "c", predicted, 1e7)


def kept(store: Store) -> list[str]:
    with store.engine.connect() as connection:
        return [row.id for row in connection.execute(select(IMAGES.c.id))]


def until(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_label_is_stored_with_what_was_answered_and_a_second_one_replaces_it(store: Store) -> None:
    store.add_answers([stored("a"), stored("b")])
    assert store.add_label("a", "n", 3) == Labelled("a", "cascade", 3, 1e7, 3)
    assert store.add_label("a", "n", 4) == Labelled("a", "cascade", 3, 1e7, 4)
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
    assert store.add_evaluation("n", Evaluated("a", "cascade", True, 1e7, {"c": True}, 1e7), 3)
    assert kept(store) == ["b", "c"]
    assert store.forget(answers_before=time.time() - 60) == 1
    assert kept(store) == ["b"]
    store.forget(answers_before=time.time() + 1)
    assert store.add_label("b", "n", 3) is None, "its label came too late"
    assert len(store.labels("n", 10)) == 1, "labels stay"


def test_a_corrected_label_takes_its_evaluation_back(store: Store) -> None:
    store.add_answers([stored("a")])
    store.add_label("a", "n", 3)
    assert store.add_evaluation("n", Evaluated("a", "cascade", True, 1e7, {"c": True}, 1e7), 3)
    assert len(store.evaluations("n", 10)) == 1
    store.add_label("a", "n", 4)
    assert store.evaluations("n", 10) == []


def test_a_label_told_twice_keeps_its_evaluation(store: Store) -> None:
    store.add_answers([stored("a")])
    store.add_label("a", "n", 3)
    assert store.add_evaluation("n", Evaluated("a", "cascade", True, 1e7, {"c": True}, 1e7), 3)
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
    assert not store.add_evaluation("n", Evaluated("a", "cascade", True, 1e7, {"c": True}, 1e7), 3)
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


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "sqlite:////proc/nowhere/x.db", "nosuch://user:secret@host/db"])
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url: str) -> None:
    with pytest.raises(UserError) as wrong:
        Store(url)
    assert "secret" not in str(wrong.value)


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


def test_an_evaluation_is_what_a_plain_loop_over_the_portfolio_says(
    served: Served, scenes: tuple[list[bytes], np.ndarray]
) -> None:
    """On the default alone the statistics are the network's own, so the loop can check it."""
    pictures, labels = scenes
    from dynamic.models import load

    original = load("resnet50-slim", weights="distillation-ladder").original
    for data, label in zip(pictures[:6], labels, strict=False):
        found = evaluate(served, Labelled("a", "cascade", int(label), 1e7, int(label)), data, 25)
        assert found is not None
        image = served.transform(Image.open(io.BytesIO(data)))[None]
        expected = plain_loop(original, "resnet50-slim", [served.default], image)[0, 0]
        assert found.right[served.default.id] == (int(expected.argmax()) == label)
        assert found.right.keys() == {c.id for c in served.portfolio}
        costs = dict(zip(found.right, served.costs.whole, strict=True))
        if any(found.right.values()):
            assert found.oracle_macs in [costs[name] for name, right in found.right.items() if right]
        else:
            assert found.oracle_macs == served.costs.whole.min()


def test_labelled_images_are_evaluated_when_the_service_rests_and_the_live_gap_counts_them(
    served: Served, store: Store, scenes: tuple[list[bytes], np.ndarray]
) -> None:
    pictures, labels = scenes
    ids = [new_id() for _ in range(12)]
    answers = [
        Answer(i, served.key, "cascade", served.default.id, int(y) if n % 3 else -1, 2e7)
        for n, (i, y) in enumerate(zip(ids, labels, strict=False))
    ]
    store.add_answers(answers, list(zip(ids, pictures, strict=False)), 60)
    for id_, label in zip(ids, labels, strict=False):
        store.add_label(id_, served.key, int(label))
    busy = True
    evaluator = Evaluator(served, store, ServingSettings(evaluate_per_hour=10), lambda: not busy)
    time.sleep(1.2)
    assert store.evaluations(served.key, 100) == [], "it waits while the service works"
    busy = False
    until(lambda: len(store.evaluations(served.key, 100)) >= 10)
    time.sleep(0.7)
    evaluator.close()
    assert len(store.evaluations(served.key, 100)) == 10, "not more than the budget"
    live = live_gap(served, store)
    assert (live["labelled"], live["evaluated"]) == (12, 10)
    assert live["answered"][0]["accuracy"] == pytest.approx(8 / 12)
    case = live["compared"][0]
    images = torch.stack([served.transform(Image.open(io.BytesIO(p))) for p in pictures[:10]])
    with torch.inference_mode():
        default = served.network(images, served.default).argmax(1).numpy() == labels[:10]
    assert case["cases"]["default"]["accuracy"] == pytest.approx(default.mean())
    assert case["cases"]["oracle"]["accuracy"] >= case["cases"]["default"]["accuracy"]
    low, high = case["cases"]["oracle"]["accuracy_ci"]
    assert low <= case["cases"]["oracle"]["accuracy"] <= high
    assert len(kept(store)) == 2


def test_the_live_gap_is_undefined_where_the_oracle_gains_nothing(served: Served, store: Store) -> None:
    right = {c.id: True for c in served.portfolio}
    store.add_answers([stored("a", network=served.key)])
    store.add_label("a", served.key, 3)
    store.add_evaluation(served.key, Evaluated("a", "cascade", True, 1e7, right, 1e7), 3)
    case = live_gap(served, store)["compared"][0]
    assert case["recovered_gap"] is None
    assert case["closed_gap_ci"] is None


def test_the_live_gap_is_the_share_of_the_oracle_that_the_policy_reaches(served: Served, store: Store) -> None:
    """40 images: default right on 20, policy on 25, oracle on 30."""
    ids = [c.id for c in served.portfolio]
    for number in range(40):
        right = dict.fromkeys(ids, number < 20) | {ids[1]: number < 30}
        id_ = f"{number:02d}"
        store.add_answers([stored(id_, 3 if number < 25 else 4, served.key)])
        store.add_label(id_, served.key, 3)
        store.add_evaluation(served.key, Evaluated(id_, "cascade", number < 25, 1e7, right, 1e7), 3)
    case = live_gap(served, store)["compared"][0]
    assert case["recovered_gap"] == pytest.approx(0.5)
    low, high = case["recovered_gap_ci"]
    assert 0 < low < 0.5 < high < 1
