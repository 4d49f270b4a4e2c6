"""A batch of images on which configurations are run one after the other, none of their common prefixes twice.

What a policy needs that looks before it chooses: the features behind some layer, the answer of a cheap configuration, then
perhaps another configuration that continues from what is there.

>>> import dynamic
>>> network = dynamic.load("resnet50-slim")
>>> session = Session(network, torch.zeros(2, 3, 96, 96))
>>> [tuple(values.shape) for values in session.before(1, network.default, np.arange(2))]     # what layer B would read
[(2, 64, 24, 24), (2, 32, 24, 24)]
>>> session.macs                                                      # multiply-accumulates spent on each image so far
array([14266368, 14266368])
>>> session.logits(network.default, np.array([0])).shape              # goes on from there
torch.Size([1, 10])
>>> session.macs
array([50988032, 14266368])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.network import DynamicNetwork
from dynamic.option import Option
from dynamic.walk import Node

Prefix = tuple[Option, ...]


class Session:
    """Runs segments of a network on demand and keeps what they made.

    Args:
        network: any dynamic network.
        images: (N, 3, H, W), normalised, on its device and of its dtype.

    Attributes:
        macs: (N,) int64 multiply-accumulates that were really run on each image.
    """

    def __init__(self, network: DynamicNetwork, images: Tensor) -> None:
        self._network, self._images = network, images
        self._resolution = (images.shape[2], images.shape[3])
        self._held: dict[Prefix, _HeldValues] = {}
        self.macs = np.zeros(len(images), dtype=np.int64)

    def before(self, layer: int, configuration: Configuration, rows: np.ndarray) -> list[Tensor]:
        """The values that dynamic layer ``layer`` and what follows it read, (rows, C, H, W) each, in order of name."""
        state = self._state(self._prefix(configuration, boundary(self._network, layer)), configuration, rows)
        return [state[name] for name in sorted(state)]

    def logits(self, configuration: Configuration, rows: np.ndarray) -> Tensor:
        """(rows, classes) logits under one configuration."""
        self._network.check(configuration)
        program = self._network.program
        return self._state(self._prefix(configuration, len(program.sites)), configuration, rows)[program.output]

    def mixed(self, configurations: Sequence[Configuration]) -> Tensor:
        """(N, classes) logits, image i under ``configurations[i]``; images that share a prefix run it as one batch."""
        if len(configurations) != len(self._images):
            raise UserError(f"{len(self._images)} images but {len(configurations)} configurations")
        program = self._network.program
        chosen = {c: np.array([other == c for other in configurations]) for c in dict.fromkeys(configurations)}
        for depth in range(len(program.sites) + 1):
            together: dict[Prefix, list[Configuration]] = {}
            for configuration in chosen:
                together.setdefault(self._prefix(configuration, depth), []).append(configuration)
            for prefix, takers in together.items():
                rows = np.flatnonzero(np.logical_or.reduce([chosen[c] for c in takers]))
                self._ensure(prefix, takers[0], rows)
        parts = [(np.flatnonzero(mask), self.logits(c, np.flatnonzero(mask))) for c, mask in chosen.items()]
        if not parts:
            return self._network.original(self._images)
        order = torch.from_numpy(np.concatenate([rows for rows, _ in parts]).argsort())
        return torch.cat([logits for _, logits in parts])[order.to(parts[0][1].device)]

    def _prefix(self, configuration: Configuration, depth: int) -> Prefix:
        return tuple(site.option(configuration) for site in self._network.program.sites[:depth])

    def _state(self, prefix: Prefix, configuration: Configuration, rows: np.ndarray) -> dict[str, Tensor]:
        """What is alive behind ``prefix``'s last segment, for some rows; run where it was not yet."""
        return self._ensure(prefix, configuration, rows).take(rows)

    def _ensure(self, prefix: Prefix, configuration: Configuration, rows: np.ndarray) -> _HeldValues:
        held = self._held.setdefault(prefix, _HeldValues(len(self._images)))
        missing = held.missing(rows)
        if len(missing) or held.empty:
            held.add(missing, self._run(prefix, configuration, missing))
        return held

    def _run(self, prefix: Prefix, configuration: Configuration, rows: np.ndarray) -> dict[str, Tensor]:
        program, norms, index = self._network.program, self._network.norms, len(prefix)
        steps = self._network.costs.steps(configuration, self._resolution)
        spent = steps[2 * index]
        if index == 0:
            state = {program.input: self._images[torch.from_numpy(rows).to(self._images.device)]}
        else:
            site = program.sites[index - 1]
            before = self._state(prefix[:-1], configuration, rows)
            made = before | {site.output: site.module(before[site.input], prefix[-1])}
            state = {name: made[name] for name in program.live[2 * index - 1]}
            spent += steps[2 * index - 1]
        segment = program.segments[index]
        extra = [norms.at(index, [Node(torch.from_numpy(rows), prefix)])] if norms else []
        made = segment.module(*(state[name] for name in segment.inputs), *extra)
        state |= dict(zip(segment.outputs, made, strict=True))
        self.macs[rows] += spent
        return {name: state[name] for name in program.live[2 * index]}


def boundary(network: DynamicNetwork, layer: int) -> int:
    """Index of the segment that ends before dynamic layer ``layer``; the last one for one past the last layer."""
    sites = network.program.sites
    return next((index for index, site in enumerate(sites) if site.layer >= layer), len(sites))


class _HeldValues:
    """Values of some rows of a batch, in the order in which they were made."""

    def __init__(self, count: int) -> None:
        self._where = np.full(count, -1)
        self._made: dict[str, Tensor] = {}

    @property
    def empty(self) -> bool:
        return not self._made

    def missing(self, rows: np.ndarray) -> np.ndarray:
        return np.unique(rows[self._where[rows] < 0])

    def add(self, rows: np.ndarray, made: dict[str, Tensor]) -> None:
        self._where[rows] = np.arange(len(rows)) + (self._where >= 0).sum()
        self._made = {name: torch.cat([self._made[name], new]) if self._made else new for name, new in made.items()}

    def take(self, rows: np.ndarray) -> dict[str, Tensor]:
        where = self._where[rows]
        count = len(next(iter(self._made.values())))
        if len(where) == count and (where == np.arange(count)).all():
            return self._made
        index = torch.from_numpy(where)
        return {name: tensor[index.to(tensor.device)] for name, tensor in self._made.items()}
