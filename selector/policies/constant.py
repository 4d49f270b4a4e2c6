"""Policies that learn at most one number: the baselines every learned policy must beat, and the oracle above them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.evaluation import bounds
from selector.observation.images import Images
from selector.observation.observations import Observations
from selector.policies.asking import Asks
from selector.policies.base import Policy, State


class _Constant(Policy):
    """The same configuration for every image."""

    learned = False
    column_: int

    def asks(self, default: int, layers: int) -> Asks:
        """Nothing."""
        return Asks()

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        return np.full(len(images), self.column_)

    def _state(self) -> State:
        return State({"column": int(self.column_)})

    def _restore(self, state: State) -> None:
        self.column_ = int(state.facts["column"])


def constants(
    portfolio: Sequence[Configuration],
    macs: np.ndarray,
    default: Configuration,
    kinds: Sequence[type[Default] | type[Cheapest]],
) -> dict[str, Policy]:
    """Policies that need no learning, by name; their accuracy is unknown.

    Args:
        portfolio: that they choose among.
        macs: (portfolio,) multiply-accumulates of each.
        default: of the network.
        kinds: which.
    """
    policies: dict[str, Policy] = {}
    for kind in kinds:
        policy = kind()
        policy.portfolio_, policy.fitted_on_, policy.points_ = tuple(c.id for c in portfolio), frozenset(), ()
        policy.column_ = portfolio.index(default) if kind is Default else int(macs.argmin())
        policies[policy.name] = policy
    return policies


class Default(_Constant):
    """What the network was trained with."""

    name = "default"

    def _fit(self, observed: Observations) -> None:
        self.column_ = observed.default


class SingleBest(_Constant):
    """The configuration that is right most often on the label split: the single best solver (SBS)."""

    name = "single_best"

    def _fit(self, observed: Observations) -> None:
        self.column_ = bounds.single_best(observed.correct, observed.costs.whole)


class Cheapest(_Constant):
    """Fewest MACs."""

    name = "cheapest"

    def _fit(self, observed: Observations) -> None:
        self.column_ = int(bounds.cost_order(observed.costs.whole)[0])


class MostPreferred(_Constant):
    """The configuration that is preferred most often on the label split: what a classifier of it collapses to."""

    name = "most_preferred"

    def _fit(self, observed: Observations) -> None:
        chosen = preferred_columns(observed)[observed.correct.any(axis=1)]
        self.column_ = int(np.bincount(chosen, minlength=len(observed.portfolio)).argmax())


class RandomChoice(Policy):
    """Any configuration, drawn by the image's name: the same for the same image and seed."""

    name = "random"
    learned = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def asks(self, default: int, layers: int) -> Asks:
        """Nothing."""
        return Asks()

    def _fit(self, observed: Observations) -> None:
        pass

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        draws = [int.from_bytes(sha256(f"{self.seed} {key}".encode()).digest()[:8], "little") for key in images.keys]
        return np.array([draw % len(self.portfolio_) for draw in draws])


class Oracle(Policy):
    """The preferred configuration, and the cheapest where none is right: the virtual best solver (VBS).

    A bound, since it knows the labels: :meth:`reveal` must give it the observations of the images it decides on.
    """

    name = "oracle"
    learned = False

    def _fit(self, observed: Observations) -> None:
        self.truth_: dict[str, int] = {}

    def reveal(self, observed: Observations) -> Oracle:
        """Remember what is right for these images."""
        quality = observed.quality
        chosen = bounds.oracle_choice(quality, observed.correct, observed.costs.whole)
        self.truth_ = dict(zip(map(str, observed.keys), map(int, chosen), strict=True))
        return self

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        unknown = [key for key in map(str, images.keys) if key not in self.truth_]
        if unknown:
            raise UserError(f"the oracle has not been shown the truth about {unknown[0]}: call reveal first")
        return np.array([self.truth_[str(key)] for key in images.keys])

    def _state(self) -> State:
        raise UserError("the oracle is no policy to keep: it knows the labels")


def preferred_columns(observed: Observations) -> np.ndarray:
    """(N,) the column of each image's preferred configuration."""
    return bounds.preferred(observed.quality, observed.costs.whole)
