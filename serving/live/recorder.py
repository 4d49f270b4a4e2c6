"""Records answers, and the pictures to be kept, in the background: many in one transaction."""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress
from hashlib import sha256

from serving.live.database import first_line, is_away
from serving.live.no_store import NoStore
from serving.live.records import StoredAnswer
from serving.live.store import Store
from serving.operation import metrics
from serving.operation.logs import event
from serving.operation.supervision import SupervisedThread
from serving.settings import ServingSettings

_FLUSH = 0.05
"""Seconds between two transactions."""
_PENDING = 20_000
"""Answers that wait for the database, at most."""
_TOGETHER = 2000
"""Answers of one transaction, at most."""
_LONGEST_PAUSE = 5.0
"""Seconds between two attempts while the database is away, at most."""
_ENDING = 5.0
"""Seconds that the end of the service waits for a database that is away."""
_SINGLY = 3
"""Failures of a transaction after which its rows are tried one by one, whatever the failure says."""
_PROBES = 20
"""Rows tried one by one, or so many as take longer than ``_ENDING``, of which not one was stored: then it is the
database, not the rows."""

Row = tuple[StoredAnswer, bytes | None]


def sampled(id_: str, share: float) -> bool:
    """Whether the image of this id is among those evaluated: a draw that nothing but the id decides."""
    return int(sha256(id_.encode()).hexdigest()[:8], 16) < share * 2**32


class Recorder:
    """A thread that writes answers and kept pictures to the database.

    Answers wait as long as the database is away, up to 20,000 of them. A row that the database refuses by itself is left out
    and counted; it takes no other row with it.

    Args:
        store: the database.
        settings: which pictures are kept, and how many.
    """

    def __init__(self, store: Store, settings: ServingSettings) -> None:
        self._store, self._settings = store, settings
        self._pending: queue.Queue[Row] = queue.Queue(_PENDING)
        self._in_hand: list[Row] = []  # survives a death of the thread's work
        self._kept: int | None = None  # until the database could be asked
        self._away = False
        self._pending_bytes = 0
        self._lock = threading.Lock()
        self._part = SupervisedThread("recorder", self._work)

    def keeps(self, id_: str, asked: bool, size: int) -> bool:
        """Whether a picture of ``size`` bytes will be kept: asked for, sampled for evaluation, and there is room.

        While the database is away none is: what waits for it is not counted by other processes.
        """
        wanted = self._settings.keep == "all" or (asked and self._settings.keep == "asked")
        if not wanted or isinstance(self._store, NoStore) or not sampled(id_, self._settings.evaluate_share):
            return False
        with self._lock:
            kept = (self._kept or 0) + self._pending_bytes
            return not self._away and kept + size <= self._settings.keep_mib * 2**20

    def add(self, answer: StoredAnswer, image: bytes | None) -> bool:
        """Record an answer, and its picture if it is to be kept; false where the database is far behind."""
        if image is not None:
            with self._lock:
                self._pending_bytes += len(image)
        try:
            self._pending.put_nowait((answer, image))
        except queue.Full:
            metrics.UNRECORDED_ANSWERS.labels("queue_full").inc()
            self._release([(answer, image)])
            return False
        return True

    def close(self) -> None:
        """Write what is left; what a database that is away does not take within seconds is counted as lost."""
        self._part.close()

    def _work(self, stopped: threading.Event) -> None:
        failures, ends = 0, float("inf")
        with suppress(Exception):  # a database that is away says so with the first answer
            self._kept = self._store.kept_bytes()
        while True:
            self._take(wait=not stopped.is_set())
            if stopped.is_set():
                ends = min(ends, time.monotonic() + _ENDING)
            if not self._in_hand:
                if stopped.is_set() and self._pending.empty():
                    return
                continue
            if self._write(singly=failures >= _SINGLY):
                failures, self._away = 0, False
                continue
            failures, self._away = failures + 1, True
            if time.monotonic() > ends:
                lost = len(self._in_hand) + self._pending.qsize()
                metrics.UNRECORDED_ANSWERS.labels("ending").inc(lost)
                event("the database is away at the end: answers are not recorded", logging.ERROR, {"answers": lost})
                self._in_hand.clear()
                return
            pause = min(0.25 * 2 ** min(failures, 10), _LONGEST_PAUSE)
            if stopped.is_set():
                time.sleep(0.1)
            else:
                stopped.wait(pause)

    def _take(self, wait: bool) -> None:
        """Fill the hand from the queue; with an empty hand, wait a moment for the first."""
        if not self._in_hand and wait:
            with suppress(queue.Empty):
                self._in_hand.append(self._pending.get(timeout=0.2))
                time.sleep(_FLUSH)
        with suppress(queue.Empty):
            while len(self._in_hand) < _TOGETHER:
                self._in_hand.append(self._pending.get_nowait())
        metrics.PENDING_ANSWERS.set(len(self._in_hand) + self._pending.qsize())

    def _write(self, singly: bool) -> bool:
        """Store what is in hand; false where the database is away, and then it stays there."""
        rows = list(self._in_hand)
        if not singly:
            try:
                self._store_rows(rows)
            except Exception as error:
                if is_away(error):
                    return False
            else:
                self._done(rows, stored=True)
                return True
        return self._write_singly(rows)

    def _write_singly(self, rows: list[Row]) -> bool:
        """Store rows one by one, then twice as many at a time as long as that works: each transaction takes its time."""
        worked, together = time.monotonic(), 1
        waiting, stored = list(rows), list[Row]()
        refused: list[tuple[Row, Exception]] = []
        unsure: list[Row] = []
        doubtful: set[str] = set()
        while waiting:
            tried, rest = waiting[:together], waiting[together:]
            try:
                self._store_rows(tried)
            except Exception as error:
                if len(tried) > 1:
                    together = 1
                    continue
                waiting, (row,) = rest, tried
                if is_away(error) and (row[0].id not in doubtful or not self._works(stored[-1])):
                    unsure.append(row)
                    if len(unsure) >= _PROBES or time.monotonic() - worked > _ENDING:
                        break
                else:
                    refused.append((row, error))
            else:
                # The database works now: rows before that seemed to find it away have a second try, and no third where it
                # works behind that, too.
                doubtful.update(answer.id for answer, _ in unsure)
                together = 1 if unsure else 2 * together
                waiting, unsure = [*unsure, *rest], []
                stored += tried
                worked = time.monotonic()
        self._done(stored, stored=True)
        self._done([row for row, _ in refused], stored=False)
        for (answer, _), why in refused:
            metrics.UNRECORDED_ANSWERS.labels("bad_row").inc()
            facts = {"id": answer.id, "reason": first_line(why)[:200]}
            event("the database refuses an answer: its label cannot come", logging.ERROR, facts)
        return not self._in_hand

    def _works(self, stored: Row) -> bool:
        """Whether the database takes again what it has."""
        try:
            self._store_rows([stored])
        except Exception:
            return False
        return True

    def _store_rows(self, rows: list[Row]) -> None:
        images = [(answer.id, image) for answer, image in rows if image is not None]
        self._store.add_answers([answer for answer, _ in rows], images, self._settings.keep_seconds)

    def _done(self, rows: list[Row], stored: bool) -> None:
        """Take rows out of the hand."""
        gone = {answer.id for answer, _ in rows}
        self._in_hand = [row for row in self._in_hand if row[0].id not in gone]
        images = [image for _, image in rows if image is not None]
        kept = self._kept
        if stored and images:
            metrics.KEPT_IMAGES.inc(len(images))
            kept = (kept or 0) + sum(len(image) for image in images)
        with suppress(Exception):
            kept = 0 if kept == 0 else self._store.kept_bytes()
        with self._lock:  # no query under it: the event loop waits for it too
            self._kept = kept
        self._release(rows)

    def _release(self, rows: list[Row]) -> None:
        with self._lock:
            self._pending_bytes -= sum(len(image) for _, image in rows if image is not None)
