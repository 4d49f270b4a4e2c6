from __future__ import annotations

import random
from collections import Counter

import pytest

from serving.inference import fair_queue
from serving.inference.fair_queue import FairQueue


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(fair_queue.time, "monotonic", lambda: now[0])
    return now


def test_requests_take_turns_and_keep_their_own_order() -> None:
    queue: FairQueue[str] = FairQueue(share=3)
    for request in ("A1 A2 A3 A4 A5", "B1", "C1 C2"):
        queue.add(request.split())
    assert queue.take(4) == ["A1", "B1", "C1", "A2"]
    assert queue.take(4) == ["C2", "A3", "A4", "A5"]
    assert queue.take(4) == []


def test_a_large_request_leaves_room_while_small_ones_come(clock: list[float]) -> None:
    queue: FairQueue[str] = FairQueue(share=4)
    queue.add("L" * 64)
    assert len(queue.take(32)) == 32, "nobody else is there"
    queue.add("s")
    assert Counter(queue.take(32)) == {"L": 4, "s": 1}
    clock[0] += 0.5
    assert Counter(queue.take(32)) == {"L": 4}, "the next small one may come any moment"
    clock[0] += 0.6
    assert Counter(queue.take(32)) == {"L": 24}


def test_a_small_request_is_in_the_next_batch_however_many_wait_before_it(clock: list[float]) -> None:
    queue: FairQueue[str] = FairQueue(share=8)
    for _ in range(5):
        queue.add("L" * 64)
    queue.take(16)
    queue.add("s")
    assert "s" in queue.take(16)


def test_higher_priorities_go_first_and_lower_ones_fill_what_is_left() -> None:
    queue: FairQueue[str] = FairQueue(share=2)
    queue.add("aaa", priority=-1)
    queue.add("bb")
    queue.add("c", priority=5)
    assert queue.take(4) == ["c", "b", "b", "a"]


def test_what_nobody_wants_any_more_is_given_back(clock: list[float]) -> None:
    queue: FairQueue[str] = FairQueue(share=2)
    queue.add("aa", deadline=101.0)
    queue.add("b", deadline=103.0)
    queue.add("c")
    assert queue.expired() == []
    clock[0] = 102.0
    assert queue.expired() == ["a", "a"]
    assert (len(queue), queue.take(9)) == (2, ["b", "c"])
    assert queue.expired() == []


def test_it_knows_who_waited_longest(clock: list[float]) -> None:
    queue: FairQueue[str] = FairQueue(share=2)
    assert queue.since == float("inf")
    for priority in (0, 1, 0):
        queue.add("aaa", priority=priority)
        clock[0] += 1
    assert queue.since == 100.0
    queue.take(3)
    assert queue.since == 100.0
    queue.clear()
    assert (len(queue), queue.since, list(queue), queue.take(1)) == (0, float("inf"), [], [])


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        FairQueue(share=0)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_doubled_or_overtaken_and_nobody_starves(seed: int) -> None:
    """Against the plain rules: every item once, in its request's order; a share at most; each that waits gets a turn."""
    stream, share, size = random.Random(seed), 3, 8
    queue: FairQueue[tuple[int, int]] = FairQueue(share=share)
    given, came = {-1: 1}, {-1: 0}
    queue.add([(-1, 0)])  # a small one, so that shares count
    queue.add([])
    for step in range(200):
        if stream.random() < 0.6:
            given[step] = stream.choice([1, 1, 1, 2, 20])
            came[step] = 0
            queue.add([(step, place) for place in range(given[step])])
        waiting = [request for request in given if came[request] < given[request]]
        assert len(queue) == sum(given[r] - came[r] for r in waiting) == len(list(queue))
        batch = queue.take(size)
        assert len(batch) <= size
        for request, place in batch:
            assert place == came[request]
            came[request] += 1
        turns = Counter(request for request, _ in batch)
        assert max(turns.values(), default=0) <= share
        if len(waiting) <= size:
            assert set(turns) == set(waiting)
        else:
            assert len(turns) == size, "nobody has a second turn before everybody had the first"
    while batch := queue.take(size):
        for request, place in batch:
            assert place == came[request]
            came[request] += 1
    assert came == given
