"""Opens in the background what no request has asked for yet, so that the first one under another policy need not wait.

A graph takes a hundredth of a second to open where tensors are shared, a tenth where not, and trees of a policy two tenths.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from dynamic.errors import UserError
from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.operation import logs

_PATIENCE = 2.0
"""Seconds that a policy waits for a moment in which the service rests."""


class OpeningAhead:
    """A thread, begun at once, that opens a network's graphs and lets every policy decide on one image.

    What fails is logged and left to the request that needs it.

    Args:
        deployment: that answers already.
        image: (C, resolution, resolution) float32, normalised.
        processes: of the server, all of which do this.
        idle: whether the service has nothing to do.
    """

    def __init__(self, deployment: Deployment, image: np.ndarray, processes: int, idle: Callable[[], bool]) -> None:
        self._deployment, self._image, self._processes, self._idle = deployment, image, processes, idle
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._open, name="opening-ahead", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop behind the graph or policy at hand."""
        self._stopped.set()
        self._thread.join()

    def _open(self) -> None:
        whole = False
        with _failures_logged("not all is opened ahead"):
            whole = self._deployment.network.open_all(self._stopped, self._processes)
        for name, policy in self._deployment.policies.items() if whole else ():
            self._rest()
            if self._stopped.is_set():
                return
            with _failures_logged(f"not all is opened ahead: {name}"):  # those behind it are opened all the same
                policy.make_ready()
                answer(self._deployment, self._image[None], [plan_request(self._deployment, policy=name)[0]])

    def _rest(self) -> None:
        """Wait until nobody is kept waiting; no longer than the patience lasts."""
        for _ in range(int(_PATIENCE / 0.01)):
            if self._idle() or self._stopped.is_set():
                return
            self._stopped.wait(0.01)


@contextmanager
def _failures_logged(what: str) -> Iterator[None]:
    """Log what fails inside, and go on behind it."""
    try:
        yield
    except UserError as error:
        logs.event(f"{what}: {error}", logging.ERROR)
    except Exception:
        logs.LOGGER.exception(what)
