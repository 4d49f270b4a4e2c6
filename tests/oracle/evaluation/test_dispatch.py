"""The books of regions handed out, with workers that are made up: they die, come back, raise, all without a cluster."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic import UserError
from oracle.evaluation.dispatch import (
    CULPRIT,
    IN_HAND,
    TRIES,
    Errand,
    Event,
    Failed,
    Finished,
    Joined,
    Lost,
    Refused,
    dispatched,
)
from oracle.evaluation.evaluate import Region


def regions(*sizes: int) -> list[tuple[int, np.ndarray]]:
    return [(0, rows) for rows in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])]


def all_of(workers: MadeUpWorkers, handed_out: list[tuple[int, np.ndarray]]) -> list[Region]:
    return [region for _, region in dispatched(workers, handed_out)]


def evaluated(errand: Errand) -> Region:
    readable = ~np.isin(errand.rows, list(errand.without))
    values = np.where(readable, errand.rows, -1)[:, None]
    problems = {str(row): reason for row, reason in errand.without.items()}
    return Region(rows=errand.rows, predicted=values, p_true=values / 1.0, readable=readable, problems=problems)


class MadeUpWorkers:
    """A worker that dies is replaced; ``fate`` says of a worker and an errand whether it dies ("lost") or raises."""

    def __init__(self, count: int, fate: Callable[[int, Errand], str | Exception | None], seed: int = 0) -> None:
        self._fate, self._stream = fate, random.Random(seed)
        self._coming, self._next = count, 0
        self.in_hand: dict[int, list[Errand]] = {}
        self.lost = 0
        self.most_in_hand = 0

    def give(self, worker: int, errand: Errand) -> None:
        self.in_hand[worker].append(errand)
        self.most_in_hand = max(self.most_in_hand, len(self.in_hand[worker]))

    def dismiss(self, worker: int) -> None:
        del self.in_hand[worker]
        self._coming += 1

    def events(self) -> Sequence[Event]:
        busy = [worker for worker, errands in self.in_hand.items() if errands]
        if self._coming and (not busy or self._stream.random() < 0.5):
            self._coming -= 1
            self._next += 1
            self.in_hand[self._next] = []
            return [Joined(self._next)]
        worker = self._stream.choice(busy)
        errand = self._stream.choice(self.in_hand[worker])
        fate = self._fate(worker, errand)
        if isinstance(fate, Exception):
            return [Failed(worker, errand, fate)]
        if fate == "refused":
            self.dismiss(worker)
            return [Refused(worker)]
        if fate == "lost":
            self.lost += 1
            self.dismiss(worker)
            return [Lost(worker)]
        self.in_hand[worker].remove(errand)
        return [Finished(worker, errand, evaluated(errand))]


def poisoned(*rows: int) -> Callable[[int, Errand], str | None]:
    """These images end whoever touches them."""

    def fate(_: int, errand: Errand) -> str | None:
        touched = set(errand.rows.tolist()) - set(errand.without)
        return "lost" if touched & set(rows) else None

    return fate


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(1, 4),
    st.sets(st.integers(0, 71), max_size=3),
    st.integers(0, 10**6),
)
def test_every_region_is_done_once_without_the_poisoned_images(
    sizes: list[int], count: int, bad: set[int], seed: int
) -> None:
    bad = {row for row in bad if row < sum(sizes)}
    workers = MadeUpWorkers(count, poisoned(*bad), seed)
    done = {int(region.rows[0]): region for region in all_of(workers, regions(*sizes))}
    assert np.concatenate([done[start].rows for start in sorted(done)]).tolist() == list(range(sum(sizes)))
    problems = {key: reason for region in done.values() for key, reason in region.problems.items()}
    assert problems == {str(row): CULPRIT for row in bad}
    for region in done.values():
        assert region.readable.tolist() == [row not in bad for row in region.rows]
    assert workers.most_in_hand <= IN_HAND


def test_one_image_is_found_by_halves_and_told_after_as_many_tries() -> None:
    workers = MadeUpWorkers(1, poisoned(13))
    assert len(all_of(workers, regions(32, 32))) == 2
    halvings = 5
    assert TRIES + halvings + TRIES <= workers.lost <= TRIES + 1 + halvings + TRIES


@pytest.mark.parametrize("seed", range(5))
def test_workers_that_go_away_by_chance_blame_no_image(seed: int) -> None:
    stream = random.Random(seed)
    workers = MadeUpWorkers(3, lambda *_: "lost" if stream.random() < 0.15 else None, seed)
    done = all_of(workers, regions(*[4] * 60))
    assert workers.lost >= 5
    assert sorted(int(region.rows[0]) for region in done) == list(range(0, 240, 4))
    assert all(region.readable.all() for region in done)


def test_images_that_only_together_end_every_worker_end_the_run() -> None:
    workers = MadeUpWorkers(2, lambda _, errand: "lost" if len(errand.rows) > 4 else None)
    with pytest.raises(UserError, match="8 images together end every worker, and none of them alone does"):
        all_of(workers, regions(8))


def test_what_fails_on_a_broken_worker_is_done_by_another() -> None:
    workers = MadeUpWorkers(2, lambda worker, _: OSError("no such mount") if worker == 1 else None)
    done = all_of(workers, regions(3, 3, 3))
    assert len(done) == 3
    assert 1 not in workers.in_hand


def test_what_fails_on_every_worker_is_raised_and_no_image_blamed() -> None:
    workers = MadeUpWorkers(2, lambda _, errand: OSError("disk failed") if 4 in errand.rows else None)
    with pytest.raises(OSError, match="disk failed"):
        all_of(workers, regions(3, 3, 3))


def test_a_worker_that_is_refused_blames_nobody_and_several_tasks_are_kept_apart() -> None:
    """Many more refusals than tries: each is of a worker, not of what it had in hand."""
    workers = MadeUpWorkers(2, lambda worker, _: "refused" if worker <= 4 * TRIES else None)
    rows = [np.arange(3), np.arange(3, 6)]
    done = list(dispatched(workers, [(task, part) for task in range(3) for part in rows]))
    assert sorted((task, int(region.rows[0])) for task, region in done) == [
        (task, row) for task in range(3) for row in (0, 3)
    ]
    assert all(region.readable.all() for _, region in done)
