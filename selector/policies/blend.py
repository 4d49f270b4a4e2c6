"""The mean score of boosted trees and the CNN head: they err on different images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selector.images import Images
from selector.observe import Observations
from selector.policies.base import State
from selector.policies.boosting import Correctness
from selector.policies.head import Head
from selector.policies.scoring import ScoringPolicy


class Blend(ScoringPolicy):
    """Correctness by trees and by the head, averaged.

    Args:
        rounds: trees a configuration.
        epochs: of the head.
        groups: what the trees see.
        seed: of both.
    """

    name = "blend"

    def __init__(self, rounds: int = 100, epochs: int = 8, groups: Sequence[str] = ("image", "stem"), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds, self.epochs = rounds, epochs
        self._parts = (Correctness(rounds, self.groups, seed), Head(epochs, seed=seed))

    def _fit(self, observed: Observations) -> None:
        for part in self._parts:
            part.fit(observed)
        self._measure()

    def _measure(self) -> None:
        self.own_macs_ = sum(part.own_macs_ for part in self._parts)

    def _scores(self, images: Images) -> np.ndarray:
        return np.asarray(np.mean([part._scores(images) for part in self._parts], axis=0))

    def _state(self) -> State:
        trees, head = (part._state() for part in self._parts)
        return State(arrays=head.arrays, texts=trees.texts)

    def _restore(self, state: State) -> None:
        trees, head = self._parts
        trees._restore(State(texts=state.texts))
        head._restore(State(arrays=state.arrays))
        self._measure()


class SecondLook(Blend):
    """As :class:`Blend`, after a look at what the default answers: it pays the default for every image.

    Args:
        rounds, epochs, groups, seed: see :class:`Blend`.
    """

    name = "second_look"

    def __init__(
        self, rounds: int = 100, epochs: int = 8, groups: Sequence[str] = ("image", "stem", "answer:default"), seed: int = 0
    ) -> None:
        super().__init__(rounds, epochs, groups, seed)
