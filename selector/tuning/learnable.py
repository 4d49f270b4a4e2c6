"""Portfolios by what can be learned of them: a cheap probe chooses for each image, and only what it gains counts.

The oracle's union grows with every configuration that is right now and then, by luck too. Here a portfolio is worth what
the probe reaches when it chooses among it, on images that the probe was not fitted on. One probe scores every
candidate once; any portfolio is then judged by the scores of its columns, so that thousands are tried for a few fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from dynamic.errors import UserError
from oracle.evaluation.bounds import cost_order
from selector.learning.fitting import FOLDS, folds
from selector.learning.portfolios import USEFUL
from selector.policies.boosting import boosted_each
from selector.policies.forest import Forest

ProbeName = Literal["ridge", "trees"]
"""Ridge regression of being right, all candidates at once; or boosted trees, one model a candidate: better and slower."""

PROBES: tuple[ProbeName, ...] = get_args(ProbeName)

_PENALTIES = np.geomspace(1e-2, 1e6, 17)
"""Of the ridge regression, chosen by generalised cross-validation."""

_PRICES = (0.0, *np.geomspace(0.01, 10, 19))
"""Of the default's MACs in probability of being right; at the last, the cheapest configuration is always chosen."""

DEALS: dict[ProbeName, int] = {"ridge": 4, "trees": 1}
"""Times that folds are dealt anew: scores averaged over deals say with less noise which configurations differ."""

_OVERDRAWN = 10.0
"""What is taken off a portfolio's worth for each time that the limit is spent beyond it: first it must keep to it."""

_PASSES = 5
"""Times that every configuration of a portfolio is tried to be exchanged, at most."""

Scorer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What is known of N label images under C configurations.

    Attributes:
        features: (N, features) float32 that the probe sees.
        correct: (N, C) bool, whether each configuration is right.
        macs: (C,) multiply-accumulates of an image under each.
        charged: (C,) the same with what the features cost where that is not run anyway.
        default: column of the network's default, which every portfolio has.
    """

    features: np.ndarray
    correct: np.ndarray
    macs: np.ndarray
    charged: np.ndarray
    default: int

    def __post_init__(self) -> None:
        images, columns = self.correct.shape
        if len(self.features) != images or self.macs.shape != (columns,) or self.charged.shape != (columns,):
            raise ValueError(f"{images} images under {columns} configurations, but features and MACs of others")

    def __len__(self) -> int:
        return len(self.correct)

    def rows(self, kept: np.ndarray) -> Candidates:
        """The same of some images."""
        return replace(self, features=self.features[kept], correct=self.correct[kept])

    def among(self, columns: np.ndarray) -> Candidates:
        """The same of some configurations, by ascending column, the default among them."""
        return replace(
            self,
            correct=self.correct[:, columns],
            macs=self.macs[columns],
            charged=self.charged[columns],
            default=int(np.flatnonzero(columns == self.default)[0]),
        )

    def useful(self, size: int) -> np.ndarray:
        """Columns that are right often enough to be worth choosing, at least ``size``; default and cheapest are.

        Of those that are seldom right some seem to help by luck: see :data:`selector.learning.portfolios.USEFUL`.
        """
        accuracy = self.correct.mean(axis=0)
        least = min(USEFUL * accuracy.max(), np.sort(accuracy)[-size:].min())
        kept = accuracy >= least
        kept[[self.default, int(np.argmin(self.charged))]] = True
        return np.flatnonzero(kept)

    def halves(self, seed: int) -> tuple[Candidates, Candidates]:
        """One half to search on, one to estimate on what is promised; see :func:`deal`."""
        first, other = deal(len(self), seed)
        return self.rows(first), self.rows(other)


def deal(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two halves at random.

    >>> first, other = deal(5, 0)
    >>> sorted([*first.tolist(), *other.tolist()])
    [0, 1, 2, 3, 4]
    """
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[::2]), np.sort(order[1::2])


@dataclass(kw_only=True)
class Probe:
    """The reference selector, and how many models it has fitted.

    Attributes:
        name: which.
        seed: of folds and trees.
        fits: models so far.
    """

    name: ProbeName = "ridge"
    seed: int = 0
    fits: int = field(default=0)

    def fit(self, features: np.ndarray, correct: np.ndarray) -> Scorer:
        """Learn who is right: from (N, features) and (N, K) bool to a function that gives (M, K) scores of being right."""
        self.fits += 1 if self.name == "ridge" else correct.shape[1]
        if self.name == "ridge":
            return _ridge(features, correct)
        forest = Forest(list(boosted_each(features, correct.T, 60, self.seed, objective="binary")))
        return lambda others: np.asarray(1 / (1 + np.exp(-forest.raw(others))))

    def held_out(self, candidates: Candidates, told: Callable[[], object] = lambda: None) -> np.ndarray:
        """(N, C) scores of every image by models that were fitted on other folds; ``told`` is called after each fold."""
        scores = np.zeros(candidates.correct.shape)
        for deal in range(DEALS[self.name]):
            for fitted, held in folds(len(candidates), self.seed + deal):
                score = self.fit(candidates.features[fitted], candidates.correct[fitted])
                scores[held] += score(candidates.features[held]) / DEALS[self.name]
                told()
        return scores


def _ridge(features: np.ndarray, correct: np.ndarray) -> Scorer:
    """Ridge regression on standardised features; one penalty for all columns."""
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale[scale < 1e-12] = np.inf  # a feature that never changes says nothing
    base = correct.mean(axis=0)
    left, sizes, right = np.linalg.svd((features - mean) / scale, full_matrices=False)
    target = left.T @ (correct - base)
    total, count = float(((correct - base) ** 2).sum()), len(features)
    best = min(_PENALTIES, key=lambda penalty: _cross_validated(sizes, target, total, count, penalty))
    weights = right.T @ ((sizes / (sizes**2 + best))[:, None] * target)
    return lambda others: np.asarray((others - mean) / scale @ weights + base)


def _cross_validated(sizes: np.ndarray, target: np.ndarray, total: float, count: int, penalty: float) -> float:
    """Generalised cross-validation: what is left of the squares, over the square of the freedom that is left."""
    kept = sizes**2 / (sizes**2 + penalty)
    explained = float(((2 * kept - kept**2)[:, None] * target**2).sum())
    freedom = 1 - (kept.sum() + 1) / count
    return (total - explained) / freedom**2 if freedom > 0 else np.inf


@dataclass(frozen=True, kw_only=True)
class Portfolio:
    """What a search found.

    Attributes:
        columns: of the candidates, ascending.
        price: of the default's MACs, at which the limit is kept.
        accuracy: of the probe, cross-validated on the images that were searched on: the best of many, so too good.
        macs: an image, on average over the same.
        tried: portfolios that were judged.
    """

    columns: tuple[int, ...]
    price: float
    accuracy: float
    macs: float
    tried: int


class _Table:
    """Judges portfolios on one set of images, by (N, C) scores.

    What a choice is worth is the mean of what came of it, which luck helps to, and of what the probe expected without having
    seen the image, which its own mistakes help to: neither alone ranks portfolios as well on other images (docs/LOG.md).

    Args:
        candidates: the images.
        scores: of being right, by models that have not seen them.
        limit: mean MACs an image, at most; None for no limit.
    """

    def __init__(self, candidates: Candidates, scores: np.ndarray, limit: float | None) -> None:
        self.right = np.ascontiguousarray(candidates.correct.T)
        self.value = (self.right + np.clip(scores.T, 0, 1)) / 2
        self.scores, self.charged = np.ascontiguousarray(scores.T), candidates.charged
        self.limit, self.tried = limit, 0
        self.prices = np.array(_PRICES if limit is not None else _PRICES[:1])
        self.price_of = self.prices[:, None] / candidates.macs[candidates.default] * self.charged

    def utility(self, column: int) -> np.ndarray:
        """(prices, N) score of a column, less the price of its MACs."""
        return np.asarray(self.scores[column] - self.price_of[:, column, None])

    def chosen(self, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(prices, N) each: utility, worth, and MACs of the column that the probe chooses."""
        best = np.full((len(self.prices), self.right.shape[1]), -np.inf)
        state = best, np.zeros_like(best), np.zeros_like(best)
        for column in columns:
            state = self.beside(state, column)
        return state

    def beside(
        self, state: tuple[np.ndarray, np.ndarray, np.ndarray], column: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same with one more column."""
        best, value, spent = state
        utility = self.utility(column)
        taken = utility > best
        return (
            np.where(taken, utility, best),
            np.where(taken, self.value[column], value),
            np.where(taken, self.charged[column], spent),
        )

    def values(self, state: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """(prices,) mean worth, lowered where the limit is not kept."""
        worth = state[1].mean(axis=1)
        if self.limit is None:
            return np.asarray(worth)
        return np.asarray(worth - _OVERDRAWN * np.maximum(state[2].mean(axis=1) / self.limit - 1, 0))

    def judged(self, columns: Sequence[int]) -> Portfolio:
        """A portfolio at its best price."""
        at = int(np.argmax(self.values(self.chosen(columns))))
        kept = np.array(sorted(columns))
        picked = kept[np.argmax(np.stack([self.utility(column)[at] for column in kept]), axis=0)]
        return Portfolio(
            columns=tuple(kept.tolist()),
            price=float(self.prices[at]),
            accuracy=float(self.right[picked, np.arange(len(picked))].mean()),
            macs=float(self.charged[picked].mean()),
            tried=self.tried,
        )

    def best_beside(self, columns: Sequence[int], order: Sequence[int]) -> tuple[float, int]:
        """The column that helps a portfolio most, and the value with it; the first in ``order`` of several."""
        state = self.chosen(columns)
        rest = [column for column in order if column not in columns]
        values = [float(self.values(self.beside(state, column)).max()) for column in rest]
        self.tried += len(rest)
        position = int(np.argmax(values))
        return values[position], rest[position]


def search_portfolio(
    candidates: Candidates,
    scores: np.ndarray,
    size: int,
    limit: float | None = None,
    told: Callable[[], object] = lambda: None,
) -> Portfolio:
    """The portfolio whose learnable accuracy is largest: greedily, then by exchanging one for another while that helps.

    Args:
        candidates: images to search on.
        scores: (N, C) of being right, see :meth:`Probe.held_out`.
        size: configurations, the default among them.
        limit: mean MACs an image, at most, what the features cost included.
        told: called after each step.

    Raises:
        UserError: fewer candidates than ``size``, or a limit below what the cheapest one costs.
    """
    count = len(candidates.macs)
    if count < size:
        raise UserError(f"{count} candidates are fewer than --size {size}: evaluate more, or ask for fewer")
    if limit is not None and candidates.charged.min() > limit:
        raise UserError(
            f"--max-macs allows {limit / 1e6:.1f} MMACs an image, and the cheapest candidate costs "
            f"{candidates.charged.min() / 1e6:.1f} with what the features cost: allow more"
        )
    table = _Table(candidates, scores, limit)
    order = cost_order(candidates.charged).tolist()
    chosen, value = [candidates.default], -np.inf
    for _ in range(size - 1):
        value, column = table.best_beside(chosen, order)
        chosen.append(column)
        told()
    for better in _exchanged(table, chosen, order, value):
        chosen = better
        told()
    return table.judged(chosen)


def priced(candidates: Candidates, scores: np.ndarray, columns: Sequence[int], limit: float | None) -> Portfolio:
    """A portfolio that was found otherwise, at the price at which it keeps to the limit, or nearly; see the search."""
    return _Table(candidates, scores, limit).judged(columns)


def _exchanged(table: _Table, chosen: list[int], order: Sequence[int], value: float) -> Iterator[list[int]]:
    """The portfolio after each attempt to exchange a configuration other than the default, which stands first."""
    for _ in range(_PASSES if len(chosen) < len(order) else 0):
        before = value
        for position in range(1, len(chosen)):
            rest = chosen[:position] + chosen[position + 1 :]
            found, column = table.best_beside(rest, order)
            if found > value:
                chosen, value = [*chosen[:position], column, *chosen[position + 1 :]], found
            yield chosen
        if value <= before:
            return


def steps_of(probe: ProbeName, size: int) -> int:
    """Steps of a search that ends after one pass of exchanges: folds, additions, exchanges."""
    return FOLDS * DEALS[probe] + 2 * (size - 1)


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What the probe makes of M images that it was not fitted on: (M,) whether right, and MACs."""

    right: np.ndarray
    macs: np.ndarray


def reached(probe: Probe, fitted: Candidates, others: Candidates, columns: Sequence[int], price: float) -> Reached:
    """Fit the probe on the images that were searched on, and let it choose for others.

    Args:
        probe: fitted anew.
        fitted: images to fit on.
        others: images to choose for.
        columns: to choose among.
        price: of the default's MACs, as the search found it.
    """
    kept = np.array(columns)
    scores = probe.fit(fitted.features, fitted.correct[:, kept])(others.features)
    charged = others.charged[kept]
    picked = np.argmax(scores - price * charged / others.macs[others.default], axis=1)
    return Reached(right=others.correct[np.arange(len(others)), kept[picked]], macs=charged[picked])
