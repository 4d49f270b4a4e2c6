"""What is deployed: a network, its configurations, the policies that choose among them, the names of its classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from selector.observation.costs import Costs
from selector.policies.base import Policy
from selector.policies.objectives import Objective
from serving.inference.plans import Plan


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Everything that answering needs; :func:`serving.inference.opening.open_deployment` makes it.

    Attributes:
        name: of the run or network.
        key: name and digests of weights, statistics and policies. Answers are stored under it, so that labels of answers
            by other weights or another portfolio do not count.
        network: on ``device``, of ``dtype``, as :meth:`DynamicNetwork.for_inference` made it.
        transform: RGB picture to normalised (3, resolution, resolution) float32.
        resolution: side of the network's input in pixels.
        classes: their names, in the order of the network's outputs.
        configurations: all that a request may force.
        portfolio: those that the policies choose among; the default is one of them.
        costs: MACs of the portfolio.
        policies: by name; ``default`` is one of them.
        active: the plan of a request that names none.
        why_active: what it promises, or why no learned policy was taken, in a sentence.
        objective: that chose the active policy's operating point.
        dtype, device: of the network.
        results: what ``selector.benchmark`` measured; None where there is nothing, and ``why_no_results`` says why.

    Raises:
        ValueError: an active policy that is not there, no policy ``default``, neither results nor a reason for none.
    """

    name: str
    key: str
    network: DynamicNetwork
    transform: Callable[[Image.Image], Tensor]
    resolution: int
    classes: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    portfolio: tuple[Configuration, ...]
    costs: Costs
    policies: Mapping[str, Policy]
    active: Plan
    why_active: str
    objective: Objective
    dtype: torch.dtype
    device: str
    results: dict[str, Any] | None
    why_no_results: str | None

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

    def macs(self, configuration: Configuration) -> int:
        """Multiply-accumulates of one image under a configuration; one multiply-add counts as 1."""
        return self.network.costs.macs(configuration, self.resolution)
