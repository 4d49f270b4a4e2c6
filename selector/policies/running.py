"""Let a policy decide on some images, then run what it chose; on many that were observed, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selector.observation.images import Images, RecordedImages
from selector.observation.observations import Observations, in_parts
from selector.policies.base import Policy


@dataclass(frozen=True)
class PolicyRun:
    """What came of a policy's decisions; rows are images.

    Attributes:
        columns: (N,) the configuration whose answer counts.
        predicted: (N,) the class it predicts.
        macs: (N,) float64 everything that was run for it, the policy's own arithmetic included.
    """

    columns: np.ndarray
    predicted: np.ndarray
    macs: np.ndarray


def run_policy(policy: Policy, images: Images, dial: float | None = None) -> PolicyRun:
    """Decide, then run what was chosen.

    Args:
        policy: fitted on the images' portfolio.
        images: fresh ones, since whatever was asked of them before is charged too.
        dial: see :meth:`Policy.decide`.
    """
    return _run(policy.decide(images, dial), images)


def run_recorded(policy: Policy, observed: Observations, dials: Sequence[float | None] = (None,)) -> list[PolicyRun]:
    """:func:`run_policy` on observed images at each of some dials, so many images at a time as :func:`in_parts` says.

    What a policy makes of an image before its dial counts is made once for all of them.

    Args:
        policy: fitted on the images' portfolio.
        observed: the images.
        dials: see :meth:`Policy.decide`.
    """
    parts = [
        [_run(columns, images) for columns, images in policy.decide_each(RecordedImages(part), dials)]
        for part in in_parts(observed)
    ]
    return [
        PolicyRun(*(np.concatenate([getattr(run, name) for run in runs]) for name in ("columns", "predicted", "macs")))
        for runs in zip(*parts, strict=True)
    ]


class PolicyRuns:
    """What policies do to observed images, each run once however often it is asked for.

    A policy is run at its whole dial when a setting of it is first asked for: most of the work does not depend on the dial,
    and a benchmark wants all of it.

    Args:
        observed: the images.
    """

    def __init__(self, observed: Observations) -> None:
        self.observed = observed
        self._found: dict[int, tuple[Policy, dict[float | None, PolicyRun]]] = {}  # the policy, so that its id stays its own

    def at(self, policy: Policy, dials: Sequence[float | None] = (None,)) -> list[PolicyRun]:
        """As :func:`run_recorded` gives them."""
        _, found = self._found.setdefault(id(policy), (policy, {}))
        asked = dials if found else [*dials, *policy.dials]
        missing = [dial for dial in dict.fromkeys(asked) if dial not in found]
        if missing:
            found |= zip(missing, run_recorded(policy, self.observed, missing), strict=True)
        return [found[dial] for dial in dials]


def _run(columns: np.ndarray, images: Images) -> PolicyRun:
    predicted = np.full(len(images), -1)
    for column in np.unique(columns):
        rows = np.flatnonzero(columns == column)
        predicted[rows] = images.answer(int(column), rows)
    return PolicyRun(columns, predicted, images.spent)
