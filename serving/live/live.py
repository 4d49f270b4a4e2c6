"""The live gap: labels that come later, and what every configuration would have said, found out while nothing else runs."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from oracle.evaluation import bounds
from selector.observation.images import answered
from selector.scoring.metrics import closed_gap, closed_gap_interval
from selector.scoring.resampling import RESAMPLES
from serving.errors import Rejected
from serving.inference.deployment import Served
from serving.inference.pictures import decode, open_picture
from serving.live.store import Answer, Evaluated, Labelled, Store
from serving.operation import metrics
from serving.operation.logs import LOGGER, event
from serving.settings import ServingSettings

MOST = 2000
"""Latest labels and evaluations that the live gap is computed from."""

_FLUSH = 0.05
_NICE = 10
"""A tenth of what a thread of the service gets where both want the same core."""
_ROWS = 16
"""Branches of the evaluation that run as one batch: enough to be quick, little memory."""
_PENDING = 20_000
_ATTEMPTS = 5
_BUSY = 10.0
"""Seconds after which an image is evaluated even if the service never rests."""


def sampled(id_: str, share: float) -> bool:
    """Whether the image of this id is among those evaluated: a draw that nothing but the id decides."""
    return int(sha256(id_.encode()).hexdigest()[:8], 16) < share * 2**32


class Recorder:
    """Writes answers and kept images in the background, many a transaction."""

    def __init__(self, store: Store, settings: ServingSettings) -> None:
        self._store, self._settings = store, settings
        self._pending: queue.Queue[tuple[Answer, bytes | None] | None] = queue.Queue(_PENDING)
        self._kept = 0
        self._pending_bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def keeps(self, id_: str, asked: bool, size: int) -> bool:
        """Whether an image will be kept: asked for, sampled for evaluation, and there is room."""
        wanted = self._settings.keep == "all" or (asked and self._settings.keep == "asked")
        if not wanted or not sampled(id_, self._settings.evaluate_share):
            return False
        with self._lock:
            return self._kept + self._pending_bytes + size <= self._settings.keep_mib * 2**20

    def add(self, answer: Answer, image: bytes | None) -> bool:
        """Remember an answer, and its image if that is to be kept; false where the database is far behind."""
        try:
            self._pending.put_nowait((answer, image))
        except queue.Full:
            metrics.FORGOTTEN.inc()
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
                metrics.FORGOTTEN.inc(len(rows))
                images.clear()
            metrics.KEPT.inc(len(images))
            kept = self._kept + sum(len(image) for _, image in images)
            with suppress(Exception):
                kept = self._store.kept_bytes() if kept else 0
            with self._lock:  # no query under it: the event loop waits for it too
                self._kept = kept
                self._pending_bytes -= sum(len(image) for _, image in rows if image is not None)


class Evaluator:
    """Runs labelled images under every configuration, one at a time, when nothing else is to be done.

    Args:
        idle: whether the service has nothing to do.
    """

    def __init__(self, served: Served, store: Store, settings: ServingSettings, idle: Callable[[], bool]) -> None:
        self._served, self._store, self._settings, self._idle = served, store, settings, idle
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="evaluator", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the image at hand and stop."""
        self._stopped.set()
        self._thread.join()

    def _loop(self) -> None:
        if sys.platform == "linux":  # there a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        torch.set_num_threads(1)
        last, tidied, shown, counted = time.monotonic(), 0.0, 0.0, (0, 0)
        while not self._stopped.is_set():
            now = time.monotonic()
            try:
                if now - tidied > 60:
                    self._store.forget(time.time() - 3600 * self._settings.remember_hours)
                    tidied = now
                if now - shown > 10 and (counts := self._store.counts(self._served.key)) != counted:
                    publish(live_gap(self._served, self._store))
                    shown, counted = now, counts
                if (self._idle() or now - last > _BUSY) and self._within_budget() and self._evaluate_one():
                    last = now
                    continue
            except Exception:
                LOGGER.exception("the evaluator failed; it goes on")
            self._stopped.wait(0.5)

    def _within_budget(self) -> bool:
        return self._store.evaluated_since(time.time() - 3600) < self._settings.evaluate_per_hour

    def _evaluate_one(self) -> bool:
        claimed = self._store.claim(self._served.key, seconds=600)
        if claimed is None:
            return False
        labelled, data = claimed
        try:
            evaluated = evaluate(self._served, labelled, data, self._settings.max_megapixels, self._stopped)
        except Rejected:
            self._store.drop_image(labelled.id)
            return True
        if evaluated is None:
            self._store.release(labelled.id)
            return True
        if not self._store.add_evaluation(self._served.key, evaluated, labelled.label):
            return True
        metrics.EVALUATED.inc()
        event("evaluated", facts={"id": labelled.id, "policy": labelled.policy})
        return True


@torch.inference_mode()
def evaluate(
    served: Served, labelled: Labelled, data: bytes, max_megapixels: float, stopped: threading.Event | None = None
) -> Evaluated | None:
    """The comprehensive evaluation of one image over the portfolio; None where it was stopped."""
    image = served.transform(decode(open_picture(data, max_megapixels)))[None]
    image = image.to(served.device, served.dtype, memory_format=torch.channels_last)
    probabilities = np.zeros((len(served.portfolio), len(served.classes)), np.float32)
    for columns, logits in served.network.comprehensive(image, served.portfolio, max_rows=_ROWS):
        if stopped is not None and stopped.is_set():
            return None
        probabilities[columns] = answered(logits)
    predicted = np.where(probabilities.any(axis=1), probabilities.argmax(axis=1), -1)[None]
    truth = np.array([labelled.label])
    quality = bounds.quality(predicted, probabilities[None, :, labelled.label], truth)
    correct = predicted == labelled.label
    chosen = bounds.oracle_choice(quality, correct, served.costs.whole)[0]
    return Evaluated(
        labelled.id,
        labelled.policy,
        labelled.predicted == labelled.label,
        labelled.macs,
        {c.id: bool(right) for c, right in zip(served.portfolio, correct[0], strict=True)},
        float(served.costs.whole[chosen]),
    )


def live_gap(served: Served, store: Store) -> dict[str, Any]:
    """What the latest labels and evaluations say of live traffic, by policy and its setting, JSON-ready.

    Accuracies carry 95 % intervals (Wilson's); gaps those of a paired bootstrap. Images of each policy are compared among
    themselves: the same images under default, single best, the policy and the oracle.
    """
    key = served.key
    labels, evaluations = store.labels(key, MOST), store.evaluations(key, MOST)
    labelled, evaluated = store.counts(key)
    names = sorted({row.policy for row in labels})
    return {
        "labelled": labelled,
        "evaluated": evaluated,
        "latest": MOST,
        "answered": [_answered(name, [row for row in labels if row.policy == name]) for name in names],
        "compared": [_compared(served, name, [e for e in evaluations if e.policy == name]) for name in names],
    }


def _answered(policy: str, rows: Sequence[Labelled]) -> dict[str, Any]:
    right = np.array([row.predicted == row.label for row in rows])
    macs = float(np.mean([row.macs for row in rows]))
    return {"policy": policy, "images": len(rows), "gmacs": macs / 1e9} | _accuracy(right)


def _accuracy(right: np.ndarray) -> dict[str, Any]:
    return {"accuracy": float(right.mean()), "accuracy_ci": list(bounds.interval(right))}


def _compared(served: Served, policy: str, rows: Sequence[Evaluated]) -> dict[str, Any]:
    found: dict[str, Any] = {"policy": policy, "images": len(rows)}
    if not rows:
        return found
    best = served.policies.get("single_best")
    best_configuration = served.portfolio[best.column_] if best is not None else None  # type: ignore[attr-defined]
    right = {
        "default": np.array([row.right[served.default.id] for row in rows]),
        "policy": np.array([row.policy_right for row in rows]),
        "oracle": np.array([any(row.right.values()) for row in rows]),
    }
    gmacs = {
        "default": served.macs(served.default) / 1e9,
        "policy": float(np.mean([row.policy_macs for row in rows]) / 1e9),
        "oracle": float(np.mean([row.oracle_macs for row in rows]) / 1e9),
    }
    if best_configuration is not None:
        right["single_best"] = np.array([row.right[best_configuration.id] for row in rows])
        gmacs["single_best"] = served.macs(best_configuration) / 1e9
    found["cases"] = {who: _accuracy(each) | {"gmacs": gmacs[who]} for who, each in right.items()}
    draws = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    draws = draws.astype(np.uint16)
    for name, base in (("closed_gap", "single_best"), ("recovered_gap", "default")):
        known = base in right
        found[name] = closed_gap(right["policy"], right[base], right["oracle"]) if known else None
        interval = closed_gap_interval(right["policy"], right[base], right["oracle"], draws) if known else None
        found[f"{name}_ci"] = None if interval is None else list(interval)
    return found


def publish(live: dict[str, Any]) -> None:
    """Set the Prometheus gauges."""
    for row in live["compared"]:
        metrics.LIVE_IMAGES.labels(row["policy"]).set(row["images"])
        for who, case in row.get("cases", {}).items():
            metrics.LIVE_ACCURACY.labels(row["policy"], who).set(case["accuracy"])
        if row.get("recovered_gap") is not None:
            metrics.LIVE_GAP.labels(row["policy"]).set(row["recovered_gap"])
