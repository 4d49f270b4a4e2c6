"""The images a policy decides on: what it may ask, each question with its price.

A policy never sees labels, and cannot look without paying: whatever it asks is recorded and charged in MACs, shared
prefixes once. :class:`RecordedImages` answer from observations, :class:`LiveImages` run the network; they agree. Neither
needs PyTorch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from hashlib import sha256
from typing import Literal, Protocol

import numpy as np

from dynamic.configuration import Configuration
from selector.observation.answers import classes_of, probabilities_of
from selector.observation.costs import Costs
from selector.observation.observations import Observations
from selector.observation.rounding import rounded
from selector.observation.statistics import IMAGE_MACS, image_statistics

Group = Literal["image", "stem", "prefix", "map"]


class NetworkSession(Protocol):
    """A batch of N images on which configurations run one after the other, nothing twice: eager or compiled."""

    @property
    def macs(self) -> np.ndarray:
        """(N,) int64 multiply-accumulates spent on each image so far."""

    def logits(self, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """(rows, classes) float32 under one configuration."""

    def mixed(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """(N, classes) float32, image i under ``configurations[i]``."""

    def look(self, kind: str, layer: int, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """What a dynamic layer reads: ``pooled`` is (rows, 2 * channels) float32, ``gridded`` (rows, channels, 6, 6)."""


class Images(ABC):
    """A batch of N images.

    Attributes:
        keys: (N,) names of the images.
        portfolio: K configurations.
        default: column of the network's default.
        costs: of the portfolio.
    """

    keys: np.ndarray
    portfolio: tuple[Configuration, ...]
    default: int
    costs: Costs

    def __init__(self, count: int) -> None:
        self._count = count
        self._charged = np.zeros(count)
        self._given: dict[Group, np.ndarray] = {}
        self._ran = np.zeros((count, len(self.costs.macs)), dtype=bool)

    def __len__(self) -> int:
        return self._count

    @property
    def charged(self) -> np.ndarray:
        """(N,) float64 MACs of the policy's own arithmetic so far; see :meth:`charge`."""
        return self._charged

    @property
    def spent(self) -> np.ndarray:
        """(N,) float64 MACs of everything asked so far."""
        return self._charged + self._ran @ self.costs.macs

    @property
    def further(self) -> np.ndarray:
        """(N, K) float64 MACs that each configuration would still cost, given what has been run already."""
        return np.asarray(self.costs.whole - np.dot(self._ran, self.costs.priced))

    def charge(self, macs: float, rows: np.ndarray | None = None) -> None:
        """Add a policy's own arithmetic, for each image or some rows. Raises ValueError where it would lower the bill."""
        if not (macs >= 0 if isinstance(macs, float) else np.all(np.asarray(macs) >= 0)):
            raise ValueError(f"a charge of {macs} MACs: it must be 0 or more")
        if rows is None:
            self._charged += macs
        else:
            self._charged[rows] += macs

    def features(self, group: Group) -> np.ndarray:
        """(N, features) float32, or (N, channels, 6, 6) for ``map``; see :mod:`selector.observation.features`."""
        if group not in self._given:
            if group == "image":
                self.charge(IMAGE_MACS)
            else:
                self._ran |= self.costs.stem if group == "stem" else self.costs.prefix
            self._given[group] = self._features(group)
        return self._given[group]

    def stage(self, layer: int, column: int, rows: np.ndarray) -> np.ndarray:
        """(rows, features) float32: what dynamic layer ``layer`` reads under a configuration, pooled."""
        self._ran[rows] |= self.costs.stages[layer, column]
        return self._stage(layer, column, rows)

    def look(self, column: int, rows: np.ndarray | None = None) -> np.ndarray:
        """(rows, classes) float32 probabilities that a configuration answers, in half precision as all that policies see.

        All zeros where they are not finite.
        """
        if rows is None:
            self._ran |= self.costs.paths[column]
            return self._look(column, np.arange(len(self)))
        self._ran[rows] |= self.costs.paths[column]
        return self._look(column, rows)

    def answer(self, column: int, rows: np.ndarray) -> np.ndarray:
        """(rows,) classes that a configuration predicts, -1 where it is not finite; from unrounded logits."""
        self._ran[rows] |= self.costs.paths[column]
        return self._answer(column, rows)

    @abstractmethod
    def _features(self, group: Group) -> np.ndarray: ...

    @abstractmethod
    def _stage(self, layer: int, column: int, rows: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _look(self, column: int, rows: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _answer(self, column: int, rows: np.ndarray) -> np.ndarray: ...


class RecordedImages(Images):
    """Images whose every answer was observed before."""

    def __init__(self, observations: Observations) -> None:
        self._seen = observations
        self._looked: dict[int, np.ndarray] = {}
        self.keys, self.portfolio, self.default = observations.keys, observations.portfolio, observations.default
        self.costs = observations.costs
        super().__init__(len(self.keys))

    def fork(self) -> RecordedImages:
        """The same images, charged for the same so far, on which something else can be asked."""
        forked = copy(self)
        forked._charged, forked._ran, forked._given = self._charged.copy(), self._ran.copy(), dict(self._given)
        return forked

    def _features(self, group: Group) -> np.ndarray:
        seen = self._seen
        return np.asarray({"image": seen.image, "stem": seen.stem, "prefix": seen.prefix, "map": seen.grid}[group])

    def _stage(self, layer: int, column: int, rows: np.ndarray) -> np.ndarray:
        return self._seen.stage_values[self._seen.stages[layer][column]][rows].astype(np.float32)

    def _look(self, column: int, rows: np.ndarray) -> np.ndarray:
        probabilities = self._seen.probabilities
        if isinstance(probabilities, np.ndarray):
            return probabilities[rows, column]
        if column not in self._looked:  # policies look at the same answers again and again
            self._looked[column] = probabilities[:, column]
        return self._looked[column][rows]

    def _answer(self, column: int, rows: np.ndarray) -> np.ndarray:
        return self._seen.predicted[rows, column]


class LiveImages(Images):
    """Images on which the network really runs; nothing is computed twice.

    Args:
        session: of a batch; see :class:`NetworkSession`.
        images: (batch, C, H, W) float32, normalised: the session's whole batch.
        portfolio: as the policy's.
        default: the network's default configuration, which must be in the portfolio.
        costs: of that portfolio.
        keys: (N,) names, which only policies that draw lots use.
        rows: (N,) positions of these images in the batch; all unless given.
    """

    def __init__(
        self,
        session: NetworkSession,
        images: np.ndarray,
        portfolio: Sequence[Configuration],
        default: Configuration,
        costs: Costs,
        keys: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self._rows = np.arange(len(images)) if rows is None else rows
        self._keys = keys
        self.portfolio, self.costs = tuple(portfolio), costs
        self.default = self.portfolio.index(default)
        self.session, self._images = session, images
        super().__init__(len(self._rows))

    @property
    def keys(self) -> np.ndarray:  # type: ignore[override]
        """(N,) names of the images, digests of their pixels; made when they are asked for, since few policies do."""
        if self._keys is None:
            self._keys = np.array([sha256(self._images[row].tobytes()).hexdigest() for row in self._rows])
        return self._keys

    def _features(self, group: Group) -> np.ndarray:
        default, first = self.portfolio[self.default], min(1, self.costs.layers - 1)
        if group == "image":
            images = self._images if len(self._rows) == len(self._images) else self._images[self._rows]
            return rounded(image_statistics(images))
        if group == "stem":
            return rounded(self.session.look("pooled", 0, default, self._rows))
        if group == "map":
            return rounded(self.session.look("gridded", first, default, self._rows))
        behind = self.session.look("pooled", first, default, self._rows)  # before the stem, which it passes
        stem = self.session.look("pooled", 0, default, self._rows)
        return rounded(np.concatenate([stem, behind], axis=1))

    def _stage(self, layer: int, column: int, rows: np.ndarray) -> np.ndarray:
        return rounded(self.session.look("pooled", layer, self.portfolio[column], self._rows[rows]))

    def _look(self, column: int, rows: np.ndarray) -> np.ndarray:
        return rounded(probabilities_of(self.session.logits(self.portfolio[column], self._rows[rows])))

    def _answer(self, column: int, rows: np.ndarray) -> np.ndarray:
        return classes_of(self.session.logits(self.portfolio[column], self._rows[rows]))
