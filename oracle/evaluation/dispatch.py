"""Regions handed out to workers that come and go, each done once; an image that ends every worker is found and left out.

The workers are somebody else's (:mod:`oracle.evaluation.ray_workers`): this module keeps the books. A worker has a region in
hand and one waiting, so that it reads while it computes and finished regions do not pile up. What a lost worker had goes
to others. A region that workers were lost with goes to idle ones only, alone: what is lost then is lost with it. After
``TRIES`` workers its images are searched by halves, and an image that alone ends ``TRIES`` more is left out by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dynamic.errors import UserError

TRIES = 3
"""Workers that something must end, or fail on, before it is to blame and not they."""

IN_HAND = 2
"""Regions that a worker has: one that runs and one that is read meanwhile."""

CULPRIT = f"{TRIES} workers that tried it alone ended without a word"
"""Why an image was left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Errand:
    """What a worker is asked to do.

    Attributes:
        task: which one.
        rows: (images,) of its source.
        without: those of ``rows`` that count as unreadable, and why.
    """

    task: int
    rows: np.ndarray
    without: Mapping[int, str]


@dataclass(frozen=True)
class Joined:
    """A worker is ready."""

    worker: int


@dataclass(frozen=True)
class Finished:
    """A worker has done an errand."""

    worker: int
    errand: Errand
    result: Any


@dataclass(frozen=True)
class Failed:
    """An errand raised ``error`` on a worker, which :meth:`Workers.dismiss` then ends."""

    worker: int
    errand: Errand
    error: Exception


@dataclass(frozen=True)
class Lost:
    """A worker has ended, and with it what it had in hand."""

    worker: int


@dataclass(frozen=True)
class Refused:
    """A worker cannot do this kind of errand and is there no more; what it had in hand is not to blame."""

    worker: int


Event = Joined | Finished | Failed | Lost | Refused


class Workers(Protocol):
    """Those who do errands."""

    def give(self, worker: int, errand: Errand) -> None:
        """Hand an errand to a worker; what becomes of it is one of the :meth:`events`."""
        ...

    def events(self) -> Sequence[Event]:
        """Wait until something has happened; nothing more comes of a worker that was lost or dismissed."""
        ...

    def dismiss(self, worker: int) -> None:
        """End a worker."""
        ...


def dispatched(workers: Workers, regions: Iterable[tuple[int, np.ndarray]]) -> Generator[tuple[int, Any], None, None]:
    """Have regions done by whatever workers there are, and yield what came out in the order in which they are done.

    Args:
        workers: who come and go.
        regions: task and rows of each, in the order in which they are begun.

    Yields:
        Task and result.

    Raises:
        UserError: a region ends every worker, and no image of it alone does.
        Exception: what an errand raised on ``TRIES`` workers.
    """
    waiting = deque(_Case(task=task, rows=rows) for task, rows in regions)
    in_hand: dict[int, dict[Errand, _Case]] = {}
    while waiting or any(in_hand.values()):
        _hand_out(workers, waiting, in_hand)
        for event in workers.events():
            if isinstance(event, Joined):
                in_hand[event.worker] = {}
            elif isinstance(event, Finished):
                case = in_hand[event.worker].pop(event.errand)
                if case.search is None:
                    yield case.task, event.result
                else:
                    case.went_on(lost=False)
                    waiting.appendleft(case)
            elif isinstance(event, Failed):
                in_hand[event.worker][event.errand].failed(event.error)
                workers.dismiss(event.worker)
                waiting.extendleft(in_hand.pop(event.worker).values())
            elif isinstance(event, Refused):
                waiting.extendleft(in_hand.pop(event.worker).values())
            elif event.worker in in_hand:
                for case in in_hand.pop(event.worker).values():
                    case.was_lost()
                    waiting.appendleft(case)


def _hand_out(workers: Workers, waiting: deque[_Case], in_hand: dict[int, dict[Errand, _Case]]) -> None:
    """First come, first served, to whoever has most room; a suspect is alone with its worker."""
    while waiting and in_hand:
        worker = max(in_hand, key=lambda one: _room(in_hand[one]))
        if _room(in_hand[worker]) < (IN_HAND if waiting[0].suspect else 1):
            return
        case = waiting.popleft()
        errand = Errand(task=case.task, rows=case.trial, without=dict(case.without))
        in_hand[worker][errand] = case
        workers.give(worker, errand)


def _room(mine: Mapping[Errand, _Case]) -> int:
    return 0 if any(case.suspect for case in mine.values()) else IN_HAND - len(mine)


@dataclass(kw_only=True, eq=False)
class _Case:
    """A region until it is done.

    Attributes:
        task: that it belongs to.
        rows: of the region.
        trial: what is to be evaluated next: all of it, or a part, to find out who ends the workers.
        without: images that are left out, and why.
        losses, failures: workers that were lost with the region, or on which it raised.
        in_vain: searches that found nobody.
        search: for the image that ends the workers, while it goes on.
    """

    task: int
    rows: np.ndarray
    trial: np.ndarray = field(init=False)
    without: dict[int, str] = field(default_factory=dict)
    losses: int = 0
    failures: int = 0
    in_vain: int = 0
    search: Generator[np.ndarray, bool, int | None] | None = None

    def __post_init__(self) -> None:
        self.trial = self.rows

    @property
    def suspect(self) -> bool:
        return self.search is not None or self.losses + self.failures > 0

    def failed(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == TRIES:
            raise error

    def was_lost(self) -> None:
        if self.search is not None:
            self.went_on(lost=True)
            return
        self.losses += 1
        if self.losses == TRIES:
            self.search = _culprit(self.rows[~np.isin(self.rows, list(self.without))])
            self.trial = next(self.search)

    def went_on(self, *, lost: bool) -> None:
        """Tell the search whether the trial's worker was lost."""
        assert self.search is not None
        try:
            self.trial = self.search.send(lost)
        except StopIteration as found:
            self.search, self.trial, self.losses = None, self.rows, 0
            if found.value is not None:
                self.without[found.value] = CULPRIT
                return
            self.in_vain += 1  # once may be chance: machines that went away
            if self.in_vain == 2:
                raise UserError(
                    f"{len(self.rows)} images together end every worker, and none of them alone does: memory is the "
                    "likeliest reason; lower --memory-gib (in a new --out) or reserve more with --ray-memory-gib"
                ) from None


def _culprit(rows: np.ndarray) -> Generator[np.ndarray, bool, int | None]:
    """Search some rows by halves for one that ends workers: yields what to try, is sent whether the worker was lost."""
    if not len(rows):  # all are left out already
        yield rows
        return None
    if len(rows) == 1:
        for _ in range(TRIES):
            if not (yield rows):
                return None
        return int(rows[0])
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        if (yield half):
            return (yield from _culprit(half))
    return None
