"""Deletes what is too old or too much, so that the database does not grow without bound."""

from __future__ import annotations

import threading
import time

from serving.live.database import is_away
from serving.live.store import Store
from serving.operation import metrics
from serving.operation.supervision import SupervisedThread
from serving.settings import ServingSettings

_SECONDS = 60.0
"""Between two times."""


class Tidying:
    """A thread that tidies every minute.

    Args:
        store: the database.
        settings: how long, and how many.
    """

    def __init__(self, store: Store, settings: ServingSettings) -> None:
        self._store, self._settings = store, settings
        self._part = SupervisedThread("tidying", self._work)

    def close(self) -> None:
        """Finish what is being deleted, and stop."""
        self._part.close()

    def _work(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                self.tidy()
            except Exception as error:
                if not is_away(error):  # of those that are, the log has had its line
                    raise
            stopped.wait(_SECONDS)

    def tidy(self) -> None:
        """Delete once. Raises what :class:`~serving.live.store.Store` raises."""
        now, settings = time.time(), self._settings
        pictures, rows = self._store.forget(
            now - 3600 * settings.remember_hours, now - 86_400 * settings.keep_days, settings.keep_rows
        )
        metrics.TIDIED_ROWS.inc(pictures + rows)
