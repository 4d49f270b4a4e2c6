"""Policies that give every configuration a score for an image and take the best, less a price for its MACs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from selector.observation.images import Images, RecordedImages
from selector.observation.observations import Observations
from selector.policies.asking import Asks
from selector.policies.base import Policy, State
from selector.policies.gathering import gather, gather_recorded

PRICES = (
    *(0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13),
    *(0.14, 0.15, 0.16, 0.17, 0.18, 0.19, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7, 1.0),
)
"""The dial: how much score the MACs of one default run are worth; accuracy as a fraction, where scores are that."""


_ASKED = 512
"""Images whose distances are held at once."""


class ScoringPolicy(Policy):
    """Takes the configuration of highest score - dial * (MACs it would still cost) / (MACs of the default).

    Args:
        groups: which features it asks for; see :mod:`selector.observation.features` and
            :func:`selector.policies.gathering.gather`.
        seed: of whatever is drawn while fitting.
    """

    own_macs_: float

    def __init__(self, groups: Sequence[str] = ("prefix",), seed: int = 0) -> None:
        self.groups, self.seed = tuple(groups), seed

    @property
    def dials(self) -> Sequence[float]:
        """See :data:`PRICES`."""
        return PRICES

    def asks(self, default: int, layers: int) -> Asks:
        """Its groups, before it chooses."""
        return Asks.of_groups(self.groups, len(self.portfolio_), default)

    def decide_each(
        self, images: RecordedImages, dials: Sequence[float | None]
    ) -> Iterator[tuple[np.ndarray, RecordedImages]]:
        """See :meth:`Policy.decide_each`: scores are made once."""
        if self.source is not None or not len(images):  # one of one's own may decide in a way of its own
            yield from super().decide_each(images, dials)
            return
        self._require(images)
        scores = self._scores(images)
        for dial in dials:
            forked = images.fork()
            columns = self._choose(scores, forked, self.dials[0] if dial is None else dial)
            yield self._checked(columns, len(images)), forked

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        return self._choose(self._scores(images), images, dial)

    def _choose(self, scores: np.ndarray, images: Images, dial: float) -> np.ndarray:
        images.charge(self.own_macs_)
        if dial:
            scores = scores - dial * images.further / images.costs.default
        return np.asarray(scores.argmax(axis=1))

    def _features(self, images: Images) -> np.ndarray:
        return gather(images, self.groups)

    def _learned_from(self, observed: Observations) -> np.ndarray:
        return gather_recorded(observed, self.groups)

    @abstractmethod
    def _scores(self, images: Images) -> np.ndarray:
        """(N, K): probabilities of being right, or what orders configurations alike."""


class Neighbours(ScoringPolicy):
    """The mean correctness of each configuration among the most similar label images.

    Only some label images are kept, each with the mean correctness among the k label images most similar to it, and a score
    is the mean of the nearest kept ones: all label images have their say, and deciding compares with few.

    Args:
        k: label images that one mean is taken of.
        kept: label images that are kept, drawn by the seed; None keeps all, each with its own correctness, and a score is
            the mean of the k most similar.
        near: kept images that a score is the mean of.
        groups, seed: see :class:`ScoringPolicy`; features are standardised.
    """

    name = "neighbours"
    earlier: ClassVar[Mapping[str, Any]] = {"kept": None}

    def __init__(
        self, k: int = 200, kept: int | None = 500, near: int = 16, groups: Sequence[str] = ("stem",), seed: int = 0
    ) -> None:
        super().__init__(groups, seed)
        self.k, self.kept, self.near = k, kept, near

    def _fit(self, observed: Observations) -> None:
        features = self._learned_from(observed)
        self.mean_, self.scale_ = features.mean(axis=0), features.std(axis=0) + 1e-6
        self.known_ = ((features - self.mean_) / self.scale_).astype(np.float16)
        self.correct_ = observed.correct
        self._index()
        if self.kept is None:
            return
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(observed))[: self.kept])
        means = self._means(self.known_[rows], self.k).astype(np.float32)
        self.known_, self.correct_ = self.known_[rows], means
        self._index()

    def _index(self) -> None:
        self.own_macs_ = float(self.known_.size)
        self.searched_ = np.ascontiguousarray(self.known_.T, dtype=np.float64)
        self.lengths_ = (self.searched_**2).sum(axis=0)

    def _scores(self, images: Images) -> np.ndarray:
        asked = (self._features(images) - self.mean_) / self.scale_
        return self._means(asked, self.k if self.kept is None else self.near)

    def _means(self, asked: np.ndarray, count: int) -> np.ndarray:
        """(N, K) mean correctness among the ``count`` nearest to (N, features), standardised."""
        count = min(count, len(self.known_))
        parts = [self._right(asked[start : start + _ASKED], count) for start in range(0, len(asked), _ASKED)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _right(self, asked: np.ndarray, count: int) -> np.ndarray:
        """:meth:`_means` of some images; of equally near ones the first count."""
        distances = self.lengths_ - 2 * (asked.astype(np.float64) @ self.searched_)  # less the asked ones' own length
        near = np.argpartition(distances, count - 1, axis=1)[:, :count]
        nearer = distances <= distances[np.arange(len(asked)), near[:, -1], None]
        if nearer.sum() > near.size:  # more of them are as far
            for row in np.flatnonzero(nearer.sum(axis=1) > count):
                near[row] = np.argsort(distances[row], kind="stable")[:count]
        return np.asarray(self.correct_[near].mean(axis=1))

    def _state(self) -> State:
        arrays = {"known": self.known_, "correct": self.correct_, "mean": self.mean_, "scale": self.scale_}
        return State(arrays=arrays)

    def _restore(self, state: State) -> None:
        self.known_, self.correct_ = state.arrays["known"], state.arrays["correct"]
        self.mean_, self.scale_ = state.arrays["mean"], state.arrays["scale"]
        self._index()
