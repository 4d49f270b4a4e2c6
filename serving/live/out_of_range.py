"""A warning where live images are unlike those that the policy was measured on, because that is when a selector fails.

Compared is how far images go (which level of cost they reach) and how sure their answers are, with what the policy did to
the test images of its run (:mod:`selector.scoring.reached`), by a test of a stated level that holds however long one looks
(:mod:`serving.live.sequential`).
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import numpy as np

from serving.inference.deployment import Deployment
from serving.inference.engine import ImageResult
from serving.inference.plans import Plan
from serving.live.sequential import SequentialTest
from serving.operation import metrics
from serving.operation.logs import event

ALPHA = 0.01
"""Chance that a server ever warns of images that are like those of its run, shared by its processes."""

_TOGETHER = 20
"""Images after which the evidence is weighed again: it takes half a millisecond."""
_LATEST = 1000
"""Images that the report describes."""


class RangeWatch:
    """Watches the images that the active policy answers; used in the event loop alone.

    Args:
        deployment: whose active policy.
        alpha: chance of a false warning over its whole life.
    """

    def __init__(self, deployment: Deployment, alpha: float = ALPHA) -> None:
        self._plan, self._alpha = deployment.active, alpha
        self._reached = deployment.reached.get((self._plan.policy, self._plan.dial))
        self._test = None if self._reached is None else SequentialTest(self._reached.counts, alpha=alpha)
        self._new: list[int] = []
        self._latest: deque[tuple[float, float]] = deque(maxlen=_LATEST)
        self._images = 0
        self.warns = False

    def see(self, result: ImageResult, plan: Plan) -> None:
        """Count an image that was answered under a plan; those of other plans than the active one do not count."""
        if self._reached is None or self._test is None or plan != self._plan:
            return
        confidence = float(result.probabilities.max())
        self._images += 1
        self._latest.append((result.macs, confidence))
        self._new.append(self._reached.cell(result.macs, confidence))
        if len(self._new) >= _TOGETHER:
            differs = self._test.add(np.bincount(self._new, minlength=len(self._reached.counts)))
            self._new.clear()
            if differs != self.warns:
                self.warns = differs
                self._tell()

    def publish(self) -> None:
        """Set the gauge."""
        metrics.OUT_OF_RANGE.set(float(self.warns))

    def report(self) -> dict[str, Any]:
        """What live images do beside what was expected, JSON-ready; of this process, its latest 1,000 images."""
        if self._reached is None:
            reason = "nobody counted what the active policy does to images of the run: python -m selector.benchmark RUN"
            return {"watched": False, "reason": reason}
        found = {
            "watched": True,
            "policy": self._plan.label,
            "level": ALPHA,
            "warns": self.warns,
            "images": self._images,
            "expected": {
                "gmacs": self._reached.mean_macs / 1e9,
                "confidence": self._reached.mean_confidence,
                "reached": _shares(self._reached.levels, self._reached.counts),
            },
            "latest": None,
        }
        if self._latest:
            macs, confidence = np.array(self._latest).T
            cells = [self._reached.cell(m, c) for m, c in self._latest]
            found["latest"] = {
                "images": len(macs),
                "gmacs": float(macs.mean()) / 1e9,
                "confidence": float(confidence.mean()),
                "reached": _shares(self._reached.levels, np.bincount(cells, minlength=len(self._reached.counts))),
            }
        return found

    def _tell(self) -> None:
        self.publish()
        facts = {key: value for key, value in self.report().items() if key in ("policy", "images", "latest", "expected")}
        if self.warns:
            event("live images are unlike those that the policy was measured on", logging.WARNING, facts)
        else:
            event("live images are again like those that the policy was measured on", facts=facts)


def _shares(levels: np.ndarray, counts: Any) -> list[float]:
    """Share of images that ended at each level of cost, from the cheapest."""
    found = np.bincount(levels, weights=counts)
    return [round(float(share), 4) for share in found / found.sum()]
