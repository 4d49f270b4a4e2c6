"""Whether a policy from a file decides by what it asked and paid for alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dynamic.errors import UserError
from selector.observation.images import Group, RecordedImages
from selector.observation.observations import Observations
from selector.observation.stored import Values
from selector.policies.base import Policy

_FEATURES = ("image", "stem", "prefix", "grid", "probabilities", "predicted")
"""What :class:`selector.observation.images.Images` sells, but for the stages."""


def refuse_peeking(policy: Policy, observed: Observations) -> None:
    """Raise UserError where a policy from a file decides by more than it pays for.

    It decides five times on the same images: twice as they are; then with other labels, and with names that tell nothing,
    as the service gives none either; and where only what it asks for is there, while somebody else keeps the bill.
    Files that it reads by itself are beyond this check.
    """
    if policy.source is None:
        return
    observed = observed.read_only()
    order = np.random.default_rng(0).permutation(len(observed))
    unlabelled = replace(observed, labels=observed.labels[order], p_true=np.zeros_like(observed.p_true), sides=None)
    blind = replace(unlabelled, keys=np.array([f"image/{row:06d}" for row in range(len(observed))]))
    dials: list[float | None] = [*policy.dials] or [None]
    for dial in dials:
        images = RecordedImages(observed)
        seen = policy.decide(images, dial)
        if not np.array_equal(seen, policy.decide(RecordedImages(observed), dial)):
            raise UserError(
                f"{policy.name} decides otherwise when it is asked again about the same images: draw no lots, or draw them "
                "in _decide from a generator with a seed"
            )
        if not np.array_equal(seen, policy.decide(RecordedImages(unlabelled), dial)):
            raise UserError(f"{policy.name} decides by the labels of the images: it may only see what Images gives it")
        if not np.array_equal(seen, policy.decide(RecordedImages(blind), dial)):
            raise UserError(
                f"{policy.name} decides by the names of the images, which may tell their labels: it may only see what "
                "Images gives it"
            )
        watched = _Watched(blind)
        if not np.array_equal(seen, policy.decide(watched, dial)):
            raise UserError(f"{policy.name} decides by what it has not asked for: it may only see what Images gives it")
        if not all(np.array_equal(spent, watched.asked()) for spent in (images.spent, watched.spent)):
            raise UserError(f"{policy.name} hides what it asked: whatever it asks of Images is charged to them")


class _Watched(RecordedImages):
    """Images that have nothing but what is asked for, and others beside them on which every question is repeated."""

    def __init__(self, observed: Observations) -> None:
        nothing: dict[str, Any] = {name: _zeros(getattr(observed, name)) for name in _FEATURES}
        stages = {name: _zeros(values) for name, values in observed.stage_values.items()}
        super().__init__(replace(observed, **nothing, stage_values=stages))
        beside = RecordedImages(observed)
        self.asked = lambda: beside.spent
        self._ask = lambda: beside

    def charge(self, macs: float, rows: np.ndarray | None = None) -> None:
        """See :meth:`Images.charge`."""
        self._ask().charge(macs, rows)
        super().charge(macs, rows)

    def _features(self, group: Group) -> np.ndarray:
        beside = self._ask()
        return beside._features(group) if group == "image" else beside.features(group)  # its price came by charge

    def _stage(self, layer: int, column: int, rows: np.ndarray) -> np.ndarray:
        return self._ask().stage(layer, column, rows)

    def _look(self, column: int, rows: np.ndarray) -> np.ndarray:
        return self._ask().look(column, rows)

    def _answer(self, column: int, rows: np.ndarray) -> np.ndarray:
        return self._ask().answer(column, rows)


def _zeros(like: Values) -> np.ndarray:
    """As large as ``like``, without its memory."""
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)
