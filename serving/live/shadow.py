"""A second policy in the shadow of the active one: a share of the images is answered again, for comparison alone.

It runs behind live work: in a thread of the lowest priority, on images that have had their answer, while nothing waits. What
it has no time for is shed, and counted. The active policy's answers and costs know nothing of it.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from serving.inference.deployment import Deployment
from serving.inference.engine import ImageResult, answer
from serving.inference.finding import check_policy
from serving.inference.plans import Plan, operating_plan
from serving.live.database import is_away
from serving.live.recorder import sampled
from serving.live.records import StoredAnswer
from serving.live.store import Store
from serving.operation import metrics
from serving.operation.logs import LOGGER, event
from serving.operation.supervision import SupervisedThread
from serving.settings import ServingSettings

_NICE = 10
"""As of the evaluator: a tenth of what a thread of the service gets where both want the same core."""
_WAITING = 64
"""Images that may wait for it."""
_TOGETHER = 8
"""Images that it runs at a time: few, since live images share the cores with them."""
_PATIENCE = 5.0
"""Seconds that an image waits for a moment in which nothing else is to be done."""
_FLUSH = 0.5
"""Seconds between two transactions."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    id: str
    image: np.ndarray
    active: ImageResult
    since: float


class Shadow:
    """Answers a share of the images again.

    Args:
        deployment: whose network and policies.
        plan: of the shadow.
        share: of the images answered under the active plan, drawn by their ids.
        store: where its answers go.
        idle: whether the service has nothing else to do.
    """

    def __init__(self, deployment: Deployment, plan: Plan, share: float, store: Store, idle: Callable[[], bool]) -> None:
        self._deployment, self.plan, self._share = deployment, plan, share
        self._store, self._idle = store, idle
        self._waiting: queue.Queue[_Waiting] = queue.Queue(_WAITING)
        self._answered: list[StoredAnswer] = []
        self._part = SupervisedThread("shadow", self._work)

    def offer(self, id_: str, image: np.ndarray, result: ImageResult, plan: Plan) -> None:
        """Have an answered image answered again, if it is drawn and there is time."""
        if plan != self._deployment.active or not sampled(f"shadow {id_}", self._share):
            return
        try:
            self._waiting.put_nowait(_Waiting(id=id_, image=image, active=result, since=time.monotonic()))
        except queue.Full:
            self._count("shed")

    def close(self) -> None:
        """Finish the images at hand and store their answers; those that wait are shed."""
        self._part.close()

    def _work(self, stopped: threading.Event) -> None:
        if sys.platform == "linux":  # there a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        flushed = time.monotonic()
        while not stopped.is_set():
            images = self._take(stopped)
            if images:
                self._answer(images)
            if self._answered and time.monotonic() - flushed > _FLUSH:
                self._flush()
                flushed = time.monotonic()
        while self._waiting.qsize():
            self._waiting.get_nowait()
            self._count("shed")
        self._flush()

    def _take(self, stopped: threading.Event) -> list[_Waiting]:
        """Some images, in a moment in which nothing else is to be done; none where there is no such moment."""
        found: list[_Waiting] = []
        with suppress(queue.Empty):
            found.append(self._waiting.get(timeout=0.2))
            while len(found) < _TOGETHER:
                found.append(self._waiting.get_nowait())
        while found and not self._idle():
            if stopped.wait(0.005) or time.monotonic() - found[0].since > _PATIENCE:
                self._count("shed", len(found))
                return []
        return found

    def _answer(self, images: Sequence[_Waiting]) -> None:
        try:
            results = answer(self._deployment, np.stack([one.image for one in images]), [self.plan] * len(images))
        except Exception:
            LOGGER.exception("the shadow policy failed")
            self._count("failed", len(images))
            return
        for waiting, result in zip(images, results, strict=True):
            self._count("answered")
            metrics.SHADOW_AGREED.labels(self.plan.policy).inc(result.predicted == waiting.active.predicted)
            metrics.SHADOW_GMACS.labels(self.plan.policy, "shadow").inc(result.macs / 1e9)
            metrics.SHADOW_GMACS.labels(self.plan.policy, "active").inc(waiting.active.macs / 1e9)
            self._answered.append(
                StoredAnswer(
                    id=waiting.id,
                    network=self._deployment.key,
                    policy=self.plan.label,
                    configuration=result.configuration.id,
                    predicted=result.predicted,
                    macs=result.macs,
                )
            )

    def _flush(self) -> None:
        """Store what was answered; what a database that is away does not take is counted, and no more."""
        answered, self._answered = self._answered, []
        if not answered:
            return
        try:
            self._store.add_shadows(answered)
        except Exception as error:
            self._count("not_recorded", len(answered))
            if not is_away(error):  # of those that are, the log has had its line
                raise

    def _count(self, outcome: str, images: int = 1) -> None:
        metrics.SHADOW_IMAGES.labels(self.plan.policy, outcome).inc(images)


def shadow_of(settings: ServingSettings, deployment: Deployment, store: Store, idle: Callable[[], bool]) -> Shadow | None:
    """The shadow that the settings ask for; none, with a line in the log, where it would be the active policy itself.

    Raises:
        UserError: the deployment has no such policy.
    """
    if settings.shadow_policy is None or not settings.shadow_share:
        return None
    check_policy(settings, list(deployment.policies))
    plan, _ = operating_plan(deployment.policies, settings.shadow_policy, deployment.objective)
    if plan == deployment.active:
        event(f"SERVING_SHADOW_POLICY={plan.policy} is the active policy: there is nothing to compare", logging.WARNING)
        return None
    return Shadow(deployment, plan, settings.shadow_share, store, idle)
