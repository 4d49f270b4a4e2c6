"""What was observed of some images once: everything that a policy may ask for, their labels, and what is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamic.configuration import Configuration
from oracle.evaluation.bounds import quality
from oracle.run_record import Digests
from selector.observation.costs import Costs
from selector.observation.stored import StoredArray, Values, columns_of, rows_of

if TYPE_CHECKING:
    from dynamic.network import DynamicNetwork


@dataclass(frozen=True)
class Observations:
    """Everything a policy could see of some images, their labels, and what each configuration answers.

    Features and probabilities, which policies decide by, are rounded to half precision; predicted classes and the
    probability of the true class, which they are scored by, are not.

    Of many images the large arrays stay on disk (:class:`selector.observation.stored.StoredArray`): index them by rows.

    Attributes:
        keys, splits, labels: (N,) of the images.
        sides: (N,) true object sides in pixels where known, else None.
        portfolio: K configurations.
        default: column of the network's default.
        digests: of the network that was observed.
        costs: of the portfolio.
        image, stem, prefix: (N, features) float32; see :mod:`selector.observation.features`.
        grid: (N, channels, 6, 6) float32, the group ``map``.
        stages: by layer and portfolio column, the name of its (N, features) array in ``stage_values``.
        stage_values: (N, features) by name.
        probabilities: (N, K, classes) float32, zeros where an answer is not finite.
        predicted: (N, K) int32 classes; -1 where an answer is not finite.
        p_true: (N, K) float32 probability of the true class; 0 where an answer is not finite.
    """

    keys: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    sides: np.ndarray | None
    portfolio: tuple[Configuration, ...]
    default: int
    digests: Digests
    costs: Costs
    image: Values
    stem: Values
    prefix: Values
    grid: Values
    stages: tuple[tuple[str, ...], ...]
    stage_values: Mapping[str, Values]
    probabilities: Values
    predicted: np.ndarray
    p_true: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def correct(self) -> np.ndarray:
        """(N, K) bool: whether each configuration is right."""
        return np.asarray(self.predicted == self.labels[:, None])

    @property
    def quality(self) -> np.ndarray:
        """(N, K) float32 quality (paper, eq. 1)."""
        return quality(self.predicted, self.p_true, self.labels)

    def rows(self, kept: np.ndarray | slice) -> Observations:
        """The same of some images, by position or mask; what is on disk stays there."""
        arrays: dict[str, Any] = {name: rows_of(getattr(self, name), kept) for name in _BY_IMAGE}
        stages = {name: rows_of(values, kept) for name, values in self.stage_values.items()}
        return replace(self, **arrays, sides=None if self.sides is None else self.sides[kept], stage_values=stages)

    @classmethod
    def joined(cls, parts: Sequence[Observations]) -> Observations:
        """Observations of the same portfolio, one after the other. Raises ValueError where they are of different ones."""
        if any((part.portfolio, part.stages) != (parts[0].portfolio, parts[0].stages) for part in parts):
            raise ValueError("observations of different portfolios cannot be joined")
        arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_IMAGE}
        stages = {name: np.concatenate([part.stage_values[name] for part in parts]) for name in parts[0].stage_values}
        sides = [part.sides for part in parts if part.sides is not None]
        return replace(parts[0], **arrays, sides=np.concatenate(sides) if sides else None, stage_values=stages)

    def read_only(self) -> Observations:
        """The same, in arrays that nobody can write in."""
        arrays: dict[str, Any] = {name: _locked(getattr(self, name)) for name in _BY_IMAGE}
        stages = {name: _locked(values) for name, values in self.stage_values.items()}
        return replace(self, **arrays, sides=None if self.sides is None else _locked(self.sides), stage_values=stages)

    def among(self, portfolio: Sequence[Configuration], network: DynamicNetwork, resolution: int) -> Observations:
        """The same with only some configurations, the default among them."""
        kept = [self.portfolio.index(c) for c in portfolio]
        answers: dict[str, Any] = {
            name: columns_of(getattr(self, name), kept) for name in ("probabilities", "predicted", "p_true")
        }
        return replace(
            self,
            portfolio=tuple(portfolio),
            default=kept.index(self.default),
            costs=Costs(network, portfolio, resolution),
            stages=tuple(tuple(stage[column] for column in kept) for stage in self.stages),
            **answers,
        )

    def split(self, name: str) -> Observations:
        """The images of one split."""
        return self.rows(self.splits == name)


TOGETHER = 1024
"""Observed images that policies work on at a time."""


def in_parts(observed: Observations) -> Iterator[Observations]:
    """:data:`TOGETHER` images after the other, at least one part."""
    for start in range(0, max(len(observed), 1), TOGETHER):
        yield observed.rows(slice(start, start + TOGETHER))


_BY_IMAGE = ("keys", "splits", "labels", "image", "stem", "prefix", "grid", "probabilities", "predicted", "p_true")


def _locked(values: Any) -> Any:
    if isinstance(values, StoredArray):
        return values
    view = values.view()
    view.setflags(write=False)
    return view
