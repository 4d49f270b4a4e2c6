"""Fit policies on the label split: on all its images, and on folds of it for cross-validated operating points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selector.observation.images import Images, Recorded
from selector.observation.observe import Observations
from selector.policies.base import OperatingPoint, Policy, gather
from selector.policies.boosting import boosted, predicted

FOLDS = 4


@dataclass(frozen=True)
class Played:
    """What came of a policy's decisions; rows are images.

    Attributes:
        columns: (N,) the configuration whose answer counts.
        predicted: (N,) its answer.
        macs: (N,) float64 everything that was run for it.
    """

    columns: np.ndarray
    predicted: np.ndarray
    macs: np.ndarray


def play(policy: Policy, images: Images, dial: float | None = None) -> Played:
    """Let a policy decide, then run what it chose; ``images`` must be fresh, since what was asked of them is charged."""
    columns = policy.decide(images, dial)
    predicted = np.full(len(images), -1)
    for column in np.unique(columns):
        rows = np.flatnonzero(columns == column)
        answers = images.look(int(column), rows)
        predicted[rows] = np.where(answers.any(axis=1), answers.argmax(axis=1), -1)
    return Played(columns, predicted, images.spent)


def folds(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(fitted, held out) rows of each fold; folds of equal size, dealt at random."""
    order = np.random.default_rng(seed).permutation(count)
    for part in range(FOLDS):
        held = np.sort(order[part::FOLDS])
        yield np.setdiff1d(order, held), held


def learnable_portfolio(observed: Observations, size: int, seed: int = 0) -> list[int]:
    """Columns among which a policy can choose best: the default, then one after the other what helps most.

    What helps is judged by the accuracy of the configuration with the best score, where scores are those of boosted trees
    on image statistics and stem, on folds they were not fitted on. Configurations that are right by luck do not help.

    Args:
        observed: the label split.
        size: how many.
        seed: deals the folds.
    """
    features = gather(Recorded(observed), ("image", "stem"))
    correct, macs = observed.correct, observed.costs.whole
    scores = np.empty(correct.shape)
    for fitted, held in folds(len(observed), seed):
        for column in range(correct.shape[1]):
            model = boosted(features[fitted], correct[fitted, column], 60, seed, objective="binary")
            scores[held, column] = predicted(model, features[held])
    rows = np.arange(len(observed))
    chosen = [observed.default]
    while len(chosen) < min(size, correct.shape[1]):
        rest = [column for column in np.argsort(macs, kind="stable").tolist() if column not in chosen]
        reached = [correct[rows, np.array([*chosen, c])[scores[:, [*chosen, c]].argmax(axis=1)]].mean() for c in rest]
        chosen.append(rest[int(np.argmax(reached))])
    return sorted(chosen)


def calibrate(policy: Policy, observed: Observations, seed: int = 0) -> Policy:
    """Fit on all label images, with operating points estimated on folds that were held out.

    Args:
        policy: fitted in place.
        observed: the label split.
        seed: deals the folds.
    """
    policy.fit(observed)  # first, since some dials depend on the portfolio
    dials: list[float | None] = [*policy.dials] or [None]
    right = np.zeros((len(dials), len(observed)))
    macs = np.zeros((len(dials), len(observed)))
    for fitted, held in folds(len(observed), seed):
        partly = policy.fresh().fit(observed.rows(fitted))
        part = observed.rows(held)
        for position, dial in enumerate(dials):
            played = play(partly, Recorded(part), dial)
            right[position, held] = played.predicted == part.labels
            macs[position, held] = played.macs
    policy.points_ = tuple(
        OperatingPoint(float(dial) if dial is not None else 0.0, float(r.mean()), float(m.mean()))
        for dial, r, m in zip(dials, right, macs, strict=True)
    )
    return policy
