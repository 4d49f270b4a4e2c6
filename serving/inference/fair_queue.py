"""What waits for a batch, in an order that is fair to requests: one of many images does not starve those of one."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_RECENT = 1.0
"""Seconds that a small request makes large ones leave room for the next."""


@dataclass
class _Request(Generic[T]):
    waiting: deque[T]
    deadline: float
    since: float
    taken: int = field(default=0)


class FairQueue(Generic[T]):
    """Items of requests; batches take them in turns, one of each request, higher priorities first.

    A request of more than ``share`` items gets at most that many into a batch while smaller requests keep coming, so that
    these wait for one short batch instead of one full of somebody else's items. Where none came lately, it may fill a batch.

    Args:
        share: items of one request in a batch, at most.

    >>> queue = FairQueue(share=2)
    >>> queue.add("aaaa"), queue.add("b"), queue.add("c", priority=1)
    (None, None, None)
    >>> "".join(queue.take(3)), "".join(queue.take(9)), len(queue)
    ('cab', 'aa', 1)
    """

    def __init__(self, *, share: int) -> None:
        if share < 1:
            raise ValueError(f"a share of at least one item, not {share}")
        self._share = share
        self._by_priority: dict[int, deque[_Request[T]]] = {}
        self._count = 0
        self._small_at = -math.inf

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All items, in no order."""
        for requests in self._by_priority.values():
            for request in requests:
                yield from request.waiting

    @property
    def since(self) -> float:
        """When the request that has waited longest came (``time.monotonic()``); infinity where none waits."""
        return min((request.since for line in self._by_priority.values() for request in line), default=math.inf)

    def add(self, items: Iterable[T], *, priority: int = 0, deadline: float = math.inf) -> None:
        """Let the items of one request wait.

        Args:
            items: of the request.
            priority: higher ones go first, whatever waits below them.
            deadline: when nobody wants the answer any more (``time.monotonic()``); see :meth:`expired`.
        """
        now = time.monotonic()
        request = _Request(deque(items), deadline, now)
        if not request.waiting:
            return
        if len(request.waiting) <= self._share:
            self._small_at = now
        self._count += len(request.waiting)
        self._by_priority.setdefault(priority, deque()).append(request)

    def take(self, count: int) -> list[T]:
        """Take up to ``count`` items for a batch."""
        share = self._share if time.monotonic() - self._small_at < _RECENT else count
        found: list[T] = []
        for priority in sorted(self._by_priority, reverse=True):
            line, had_share = self._by_priority[priority], deque[_Request[T]]()
            for request in line:
                request.taken = 0
            while line and len(found) < count:
                request = line.popleft()
                found.append(request.waiting.popleft())
                request.taken += 1
                if request.waiting:
                    (line if request.taken < share else had_share).append(request)
            line.extend(had_share)
            if not line:
                del self._by_priority[priority]
            if len(found) >= count:
                break
        self._count -= len(found)
        return found

    def expired(self) -> list[T]:
        """Remove the items of requests whose deadline is over, and give them back."""
        now, found = time.monotonic(), list[T]()
        for priority, line in [*self._by_priority.items()]:
            late = [request for request in line if request.deadline <= now]
            if late:
                found += [item for request in late for item in request.waiting]
                left = deque(request for request in line if request.deadline > now)
                self._by_priority[priority] = left
                if not left:
                    del self._by_priority[priority]
        self._count -= len(found)
        return found

    def clear(self) -> None:
        """Forget all items."""
        self._by_priority.clear()
        self._count = 0
