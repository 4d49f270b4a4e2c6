"""Fit policies on the label split: on all its images, and on folds of it for cross-validated operating points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.objectives import OperatingPoint, paired_error
from selector.policies.own import own_errors
from selector.policies.peeking import refuse_peeking
from selector.policies.running import run_policy

FOLDS = 4


def folds(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(fitted, held out) rows of each fold; folds of equal size, at random."""
    order = np.random.default_rng(seed).permutation(count)
    for part in range(FOLDS):
        held = np.sort(order[part::FOLDS])
        yield np.setdiff1d(order, held), held


def calibrate(policy: Policy, observed: Observations, seed: int = 0) -> Policy:
    """Fit on all label images, with operating points estimated on folds that were held out.

    Args:
        policy: fitted in place.
        observed: the label split.
        seed: deals the folds.
    """
    with own_errors(policy):
        policy.fit(observed)  # first, since some dials depend on the portfolio
        refuse_peeking(policy, observed)
        return _estimated(policy, observed, seed)


def _estimated(policy: Policy, observed: Observations, seed: int) -> Policy:
    """The fitted policy with its operating points."""
    dials: list[float | None] = [*policy.dials] or [None]
    right = np.zeros((len(dials), len(observed)), dtype=bool)
    macs = np.zeros((len(dials), len(observed)))
    for fitted, held in folds(len(observed), seed):
        partly = policy.fresh().fit(observed.rows(fitted))
        part = observed.rows(held)
        for position, dial in enumerate(dials):
            outcome = run_policy(partly, RecordedImages(part), dial)
            right[position, held] = outcome.predicted == part.labels
            macs[position, held] = outcome.macs
    default = observed.correct[:, observed.default]
    policy.points_ = tuple(
        OperatingPoint(float(dial) if dial is not None else 0.0, float(r.mean()), float(m.mean()), paired_error(r, default))
        for dial, r, m in zip(dials, right, macs, strict=True)
    )
    return policy
