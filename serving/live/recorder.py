"""Records answers, and the pictures to be kept, in the background: many in one transaction."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from hashlib import sha256

from serving.live.store import Store, StoredAnswer
from serving.operation import metrics
from serving.operation.logs import LOGGER
from serving.settings import ServingSettings

_FLUSH = 0.05
"""Seconds between two transactions."""
_PENDING = 20_000
"""Answers that wait for the database, at most."""
_ATTEMPTS = 5


def sampled(id_: str, share: float) -> bool:
    """Whether the image of this id is among those evaluated: a draw that nothing but the id decides."""
    return int(sha256(id_.encode()).hexdigest()[:8], 16) < share * 2**32


class Recorder:
    """A thread that writes answers and kept pictures to the database.

    Args:
        store: the database.
        settings: which pictures are kept, and how many.
    """

    def __init__(self, store: Store, settings: ServingSettings) -> None:
        self._store, self._settings = store, settings
        self._pending: queue.Queue[tuple[StoredAnswer, bytes | None] | None] = queue.Queue(_PENDING)
        self._kept = 0
        self._pending_bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def keeps(self, id_: str, asked: bool, size: int) -> bool:
        """Whether a picture of ``size`` bytes will be kept: asked for, sampled for evaluation, and there is room."""
        wanted = self._settings.keep == "all" or (asked and self._settings.keep == "asked")
        if not wanted or not sampled(id_, self._settings.evaluate_share):
            return False
        with self._lock:
            return self._kept + self._pending_bytes + size <= self._settings.keep_mib * 2**20

    def add(self, answer: StoredAnswer, image: bytes | None) -> bool:
        """Record an answer, and its picture if it is to be kept; false where the database is far behind."""
        try:
            self._pending.put_nowait((answer, image))
        except queue.Full:
            metrics.UNRECORDED_ANSWERS.inc()
            return False
        if image is not None:
            with self._lock:
                self._pending_bytes += len(image)
        return True

    def close(self) -> None:
        """Write what is left."""
        self._pending.put(None)
        self._thread.join()

    def _write(self) -> None:
        ended = False
        while not ended:
            items = [self._pending.get()]
            time.sleep(_FLUSH)
            while not self._pending.empty() and len(items) < 2000:
                items.append(self._pending.get())
            ended = None in items
            rows = [item for item in items if item is not None]
            if not rows:
                continue
            images = [(answer.id, image) for answer, image in rows if image is not None]
            for attempt in range(_ATTEMPTS):
                try:
                    self._store.add_answers([answer for answer, _ in rows], images, self._settings.keep_seconds)
                    break
                except Exception:  # the service answers on while its database is away
                    LOGGER.exception("could not record %d answers", len(rows))
                    time.sleep(0 if ended else 2**attempt / 4)
            else:
                metrics.UNRECORDED_ANSWERS.inc(len(rows))
                images.clear()
            metrics.KEPT_IMAGES.inc(len(images))
            kept = self._kept + sum(len(image) for _, image in images)
            with suppress(Exception):
                kept = self._store.kept_bytes() if kept else 0
            with self._lock:  # no query under it: the event loop waits for it too
                self._kept = kept
                self._pending_bytes -= sum(len(image) for _, image in rows if image is not None)
