"""Runs labelled pictures under every configuration while the service rests, so that the oracle's answer is known."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from oracle.evaluation import bounds
from selector.observation.answers import probabilities_of
from serving.errors import Rejection
from serving.inference.decoding import decode, open_picture
from serving.inference.deployment import Deployment
from serving.live.database import is_away
from serving.live.live_gap import live_gap, publish
from serving.live.records import Evaluation, LabelledAnswer
from serving.live.store import Store
from serving.operation import metrics
from serving.operation.logs import event
from serving.operation.supervision import SupervisedThread
from serving.settings import ServingSettings

_NICE = 10
"""A tenth of what a thread of the service gets where both want the same core."""
_BUSY = 10.0
"""Seconds after which an image is evaluated even if the service never rests."""


class Evaluator:
    """Runs labelled images under every configuration, one at a time, when nothing else is to be done.

    Args:
        deployment: whose network and portfolio.
        store: the database.
        settings: how many images an hour.
        idle: whether the service has nothing to do.
    """

    def __init__(self, deployment: Deployment, store: Store, settings: ServingSettings, idle: Callable[[], bool]) -> None:
        self._deployment, self._store, self._settings, self._idle = deployment, store, settings, idle
        self._done: deque[float] = deque()
        self._part = SupervisedThread("evaluator", self._work)

    def close(self) -> None:
        """Finish the image at hand and stop."""
        self._part.close()

    def _work(self, stopped: threading.Event) -> None:
        if sys.platform == "linux":  # there a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        last, shown, counted = time.monotonic(), 0.0, (0, 0)
        while not stopped.is_set():
            now = time.monotonic()
            try:
                if now - shown > 10:
                    shown = now
                    if (counts := self._store.counts(self._deployment.key)) != counted:
                        publish(live_gap(self._deployment, self._store))
                        counted = counts
                if (self._idle() or now - last > _BUSY) and self._within_budget() and self._evaluate_one(stopped):
                    last = now
                    continue
            except Exception as error:
                if not is_away(error):  # of those that are, the log has had its line
                    raise
            stopped.wait(0.5)

    def _within_budget(self) -> bool:
        """A label that changes takes its evaluation back, in the store, but not what this process has done."""
        hour = time.time() - 3600
        while self._done and self._done[0] < hour:
            self._done.popleft()
        return max(self._store.evaluated_since(hour), len(self._done)) < self._settings.evaluate_per_hour

    def _evaluate_one(self, stopped: threading.Event) -> bool:
        claimed = self._store.claim(self._deployment.key, seconds=600)
        if claimed is None:
            return False
        labelled, data = claimed
        try:
            evaluation = evaluate(self._deployment, labelled, data, self._settings.max_megapixels, stopped)
        except Rejection:
            self._store.drop_image(labelled.id)
            return True
        if evaluation is None:
            self._store.release(labelled.id)
            return True
        self._done.append(time.time())
        if not self._store.add_evaluation(self._deployment.key, evaluation, labelled.label):
            return True
        metrics.EVALUATIONS.inc()
        event("evaluated", facts={"id": labelled.id, "policy": labelled.policy})
        return True


def evaluate(
    deployment: Deployment,
    labelled: LabelledAnswer,
    data: bytes,
    max_megapixels: float,
    stopped: threading.Event | None = None,
) -> Evaluation | None:
    """Run one picture under every configuration of the portfolio.

    Args:
        deployment: whose network and portfolio.
        labelled: the answer to the picture, and its label.
        data: the picture as it was sent.
        max_megapixels: that a picture may have.
        stopped: asked between configurations.

    Returns:
        Which configurations are right, and what the oracle's choice costs; None where ``stopped`` was set.

    Raises:
        Rejection: the picture cannot be decoded.
    """
    image = deployment.transform(decode(open_picture(data, max_megapixels)))[None]
    probabilities = np.zeros((len(deployment.portfolio), len(deployment.classes)), np.float32)
    for columns, logits in deployment.network.every(image, deployment.portfolio):
        if stopped is not None and stopped.is_set():
            return None
        probabilities[columns] = probabilities_of(logits)
    predicted = np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), -1)[None]
    truth = np.array([labelled.label])
    quality = bounds.quality(predicted, probabilities[None, :, labelled.label], truth)
    correct = predicted == labelled.label
    chosen = bounds.oracle_choice(quality, correct, deployment.costs.whole)[0]
    return Evaluation(
        id=labelled.id,
        policy=labelled.policy,
        policy_right=labelled.predicted == labelled.label,
        policy_macs=labelled.macs,
        right={c.id: bool(right) for c, right in zip(deployment.portfolio, correct[0], strict=True)},
        oracle_macs=float(deployment.costs.whole[chosen]),
    )
