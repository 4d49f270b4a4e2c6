"""Fit policies on the label split: on all its images, and on folds of it for cross-validated operating points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256

import numpy as np

from dynamic.errors import UserError
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.guarantee import guaranteed
from selector.policies.objectives import TERMS, OperatingPoint, Terms
from selector.policies.own import own_errors
from selector.policies.peeking import refuse_peeking
from selector.policies.running import run_recorded
from selector.policies.sharing import images_as

FOLDS = 4


def folds(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(fitted, held out) rows of each fold; folds of equal size, at random."""
    order = np.random.default_rng(seed).permutation(count)
    for part in range(FOLDS):
        held = np.sort(order[part::FOLDS])
        yield np.setdiff1d(order, held), held


def halves(keys: Iterable[object]) -> tuple[frozenset[str], frozenset[str]]:
    """Label images that a portfolio is chosen on, and the others, on which is estimated what is promised of it.

    Dealt by a hash of each name: more images, or one that can no longer be read, change nothing for the rest. There is no
    seed, so that policies fitted anew choose among configurations that are observed already.
    """
    names = list(map(str, keys))
    chosen = frozenset(name for name in names if sha256(name.encode()).digest()[0] % 2)
    return chosen, frozenset(names) - chosen


def calibrate(
    policy: Policy,
    observed: Observations,
    seed: int = 0,
    tried: int = 1,
    terms: Terms = TERMS,
    chosen_on: frozenset[str] = frozenset(),
    learned_from: Observations | None = None,
) -> Policy:
    """Fit on all label images, with operating points estimated on folds that were held out.

    Args:
        policy: fitted in place.
        observed: the label split.
        seed: deals the folds.
        tried: policies among which one is to be chosen, this one included.
        terms: of what the operating points guarantee.
        chosen_on: keys of images that the portfolio was chosen on: they are learned from, and nothing is promised on them.
        learned_from: the label split with further views of its images, under the same keys, if there are any; for policies
            that learn from views. What is promised of an image is estimated without having learned from any view of it.

    Raises:
        UserError: the portfolio was chosen on all images but one or none.
    """
    learned_from = learned_from if policy.from_views and learned_from is not None else observed
    with own_errors(policy):
        with images_as(("all", len(learned_from)), learned_from):
            policy.fit(learned_from)  # first, since some dials depend on the portfolio
        refuse_peeking(policy, observed)
        policy.chosen_on_ = chosen_on & policy.fitted_on_
        policy.views_ = int(np.unique(learned_from.keys, return_counts=True)[1].max())
        return _estimate(policy, observed, learned_from, seed, tried, terms)


def _estimate(
    policy: Policy, observed: Observations, learned_from: Observations, seed: int, tried: int, terms: Terms
) -> Policy:
    """Give a fitted policy its operating points; see :func:`calibrate`."""
    promised = np.array([key not in policy.chosen_on_ for key in map(str, observed.keys)])
    if promised.sum() < 2:
        raise UserError("the configurations were chosen on these very label images: nothing can be promised without others")
    dials: list[float | None] = [*policy.dials] or [None]
    right = np.zeros((len(dials), len(observed)), dtype=bool)
    macs = np.zeros((len(dials), len(observed)))
    for number, (fitted, held) in enumerate(folds(len(observed), seed)):
        rows = learned_from.rows(np.isin(learned_from.keys, observed.keys[fitted]))
        with images_as((seed, number, len(learned_from)), rows):
            partly = policy.fresh().fit(rows)
        part = observed.rows(held)
        for position, outcome in enumerate(run_recorded(partly, part, dials)):
            right[position, held] = outcome.predicted == part.labels
            macs[position, held] = outcome.macs
    right, macs = right[:, promised], macs[:, promised]
    least = guaranteed(right, observed.correct[promised, observed.default], tried, terms.confidence)
    policy.terms_ = terms
    policy.points_ = tuple(
        OperatingPoint(float(dial) if dial is not None else 0.0, float(r.mean()), float(m.mean()), float(bound))
        for dial, r, m, bound in zip(dials, right, macs, least, strict=True)
    )
    return policy
