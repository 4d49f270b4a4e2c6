"""The mean score of boosted trees and the CNN head: they err on different images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np

from selector.observation.images import Images
from selector.observation.observations import Observations
from selector.policies.answers import consensus, fit_temperatures, tempered
from selector.policies.asking import ANSWER, Asks, joined
from selector.policies.base import State
from selector.policies.boosting import Correctness
from selector.policies.head import Head
from selector.policies.scoring import ScoringPolicy
from selector.policies.sharing import once

MARGINS = (1.0, 0.3, 0.2, 0.15, 0.1, 0.06, 0.03, 0.0)

SOFTNESS = 0.05
"""Difference of scores at which the better of two answers weighs e times the other; chosen on label images."""


class Blend(ScoringPolicy):
    """Correctness by trees and by the head, averaged.

    Args:
        rounds: trees a configuration.
        epochs: of the head.
        groups: what the trees see; the head sees the same but answers (or the stem) beside its map.
        seed: of both.
    """

    name = "blend"

    def __init__(self, rounds: int = 100, epochs: int = 8, groups: Sequence[str] = ("stem",), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds, self.epochs = rounds, epochs
        features = [group for group in self.groups if not group.startswith(ANSWER)] or ["stem"]
        self._parts = (Correctness(rounds, self.groups, seed), Head(epochs, groups=("map", *features), seed=seed))

    def asks(self, default: int, layers: int) -> Asks:
        """What its trees and its head ask."""
        groups = (*self.groups, *self._parts[1].groups)
        return Asks.of_groups(groups, len(self.portfolio_), default)

    def _fit(self, observed: Observations) -> None:
        for part in self._parts:
            part._restore(once(observed, (part.name, *part.parameters().items()), partial(_learned, part, observed)))
        self._measure()

    def _measure(self) -> None:
        self.own_macs_ = sum(part.own_macs_ for part in self._parts)

    def _scores(self, images: Images) -> np.ndarray:
        trees, head = (part._scores(images) for part in self._parts)
        return np.asarray((trees + head) / 2)

    def _state(self) -> State:
        trees, head = (part._state() for part in self._parts)
        return State(arrays=head.arrays, texts=trees.texts)

    def _restore(self, state: State) -> None:
        trees, head = self._parts
        trees._restore(State(texts=state.texts))
        head._restore(State(arrays=state.arrays))
        self._measure()


def _learned(part: ScoringPolicy, observed: Observations) -> State:
    return part.fit(observed)._state()


class SecondLook(Blend):
    """As :class:`Blend`, after a look at what the default answers: it pays the default for every image.

    Args:
        rounds, epochs, groups, seed: see :class:`Blend`.
    """

    name = "second_look"

    def __init__(
        self, rounds: int = 100, epochs: int = 8, groups: Sequence[str] = ("stem", "answer:default"), seed: int = 0
    ) -> None:
        super().__init__(rounds, epochs, groups, seed)


class TopTwo(Blend):
    """Runs the two configurations of highest score and weighs their answers by the scores.

    Its dial is the difference of scores beyond which the second is not run. The configuration it names is the one, of those
    it ran, that is surest of the class they give together.

    Args:
        rounds, epochs, groups, seed: see :class:`Blend`.
    """

    name = "top_two"

    @property
    def dials(self) -> Sequence[float]:
        """From "always both" to "never"."""
        return MARGINS

    def asks(self, default: int, layers: int) -> Asks:
        """Then any two answers."""
        pairs = tuple(itertools.permutations(range(len(self.portfolio_)), 2))
        return joined([super().asks(default, layers), Asks(ladders=pairs)])

    def _fit(self, observed: Observations) -> None:
        super()._fit(observed)
        self.temperatures_ = once(observed, "temperatures", lambda: fit_temperatures(observed))

    def _choose(self, scores: np.ndarray, images: Images, dial: float) -> np.ndarray:
        images.charge(self.own_macs_)
        order = np.argsort(-scores, axis=1, kind="stable")
        best, second = (np.take_along_axis(scores, order[:, place : place + 1], axis=1)[:, 0] for place in (0, 1))
        chosen = order[:, 0].copy()
        rows = np.flatnonzero(best - second < dial)
        if not len(rows):
            return chosen
        answers = np.stack([self._answers(images, order[rows, place], rows) for place in (0, 1)], axis=1)
        share = 1 / (1 + np.exp(-(best - second)[rows] / SOFTNESS))
        together = share[:, None] * answers[:, 0] + (1 - share)[:, None] * answers[:, 1]
        chosen[rows] = consensus(together, answers, order[rows, :2])
        return chosen

    def _answers(self, images: Images, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rows, classes) calibrated answers of each row's own configuration."""
        parts = [(np.flatnonzero(columns == column), int(column)) for column in np.unique(columns)]
        found = [tempered(images.look(column, rows[where]), self.temperatures_[column]) for where, column in parts]
        return np.concatenate(found)[np.concatenate([where for where, _ in parts]).argsort()]

    def _state(self) -> State:
        state = super()._state()
        return State(arrays=state.arrays | {"temperatures": self.temperatures_}, texts=state.texts)

    def _restore(self, state: State) -> None:
        super()._restore(State(arrays={k: v for k, v in state.arrays.items() if k != "temperatures"}, texts=state.texts))
        self.temperatures_ = state.arrays["temperatures"]
