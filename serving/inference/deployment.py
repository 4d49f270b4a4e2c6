"""What is deployed: a network, its configurations, the policies that choose among them, the names of its classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from dynamic.configuration import Configuration
from selector.observation.costs import Costs
from selector.policies.base import Policy
from selector.policies.objectives import Objective
from selector.scoring.reached import Reached
from serving.inference.plans import Plan
from serving.inference.reserve import Reserve
from serving.inference.served_network import ServedNetwork


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Everything that answering needs; :func:`serving.inference.opening.open_deployment` makes it.

    Attributes:
        name: of the run or network.
        key: name and digests of weights, statistics and policies. Answers are stored under it, so that labels of answers
            by other weights or another portfolio do not count.
        weights: digest of the network's weights.
        network: what runs.
        reserve: what runs configurations of the run that are not compiled; None where there is no such thing.
        transform: RGB picture to normalised (channels, resolution, resolution) float32.
        resolution: side of the network's input in pixels.
        classes: their names, in the order of the network's outputs.
        configurations: all that a request may force, beside those of the reserve.
        portfolio: those that the policies choose among; the default is one of them.
        costs: MACs of the portfolio.
        policies: by name; ``default`` is one of them.
        active: the plan of a request that names none.
        why_active: what it promises, or why no learned policy was taken, in a sentence.
        objective: that chose the active policy's operating point.
        results: what ``selector.benchmark`` measured; None where there is nothing, and ``why_no_results`` says why.
        reached: what policies do to images like the run's, by name and setting; empty where nobody counted.

    Raises:
        ValueError: an active policy that is not there, no policy ``default``, neither results nor a reason for none.
    """

    name: str
    key: str
    weights: str
    network: ServedNetwork
    reserve: Reserve | None = None
    transform: Callable[[Image.Image], np.ndarray]
    resolution: int
    classes: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    portfolio: tuple[Configuration, ...]
    costs: Costs
    policies: Mapping[str, Policy]
    active: Plan
    why_active: str
    objective: Objective
    results: dict[str, Any] | None
    why_no_results: str | None
    reached: Mapping[tuple[str, float | None], Reached] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for policy in ("default", self.active.policy):
            if policy not in self.policies:
                raise ValueError(f"no policy {policy}: there are {', '.join(self.policies)}")
        if (self.results is None) == (self.why_no_results is None):
            raise ValueError("either results, or a reason why there are none")

    @property
    def default(self) -> Configuration:
        """The configuration that the network was trained with."""
        return self.network.default

    def network_of(self, configuration: Configuration) -> ServedNetwork:
        """What runs a configuration: the network, or the reserve where that was opened for what is not compiled."""
        if configuration in self.configurations or self.reserve is None:
            return self.network
        return self.reserve.open().network

    def macs(self, configuration: Configuration) -> int:
        """Multiply-accumulates of one image under a configuration; one multiply-add counts as 1."""
        return self.network_of(configuration).macs(configuration)
