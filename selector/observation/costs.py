"""What looking and running cost: the tree of prefixes of a portfolio, so that nothing shared is paid for twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dynamic.configuration import Configuration

if TYPE_CHECKING:
    from dynamic.network import DynamicNetwork
    from dynamic.option import Option

    Prefix = tuple[Option, ...]

_ARRAYS = ("macs", "paths", "stages", "stem", "prefix")


class Costs:
    """MACs of every prefix of options that the portfolio, or the features, need.

    Args:
        network: for its counts.
        portfolio: the configurations a policy chooses among.
        resolution: of the images in pixels.

    Attributes:
        macs: (prefixes,) int64 MACs of the last step of each prefix: site and segment.
        whole: (portfolio,) int64 MACs of one image under each configuration.
        default: int MACs of one image under the network's default configuration.
        paths: (portfolio, prefixes) bool, what each configuration runs.
        stages: (layers, portfolio, prefixes) bool, what runs before each dynamic layer under each configuration.
        stem, prefix: (prefixes,) bool, what those features run.
    """

    def __init__(self, network: DynamicNetwork, portfolio: Sequence[Configuration], resolution: int) -> None:
        from dynamic.session import boundary  # here: costs that were stored are read without torch

        sites, layers = network.program.sites, len(network.dynamic_layers)
        known: dict[Prefix, int] = {}
        macs: list[int] = []

        def path(configuration: Configuration, depth: int) -> list[int]:
            """Positions of the prefixes up to segment ``depth``."""
            steps = network.costs.steps(configuration, resolution)
            found = []
            for index in range(depth + 1):
                prefix = tuple(site.option(configuration) for site in sites[:index])
                if prefix not in known:
                    known[prefix] = len(macs)
                    macs.append(steps[2 * index] + (steps[2 * index - 1] if index else 0))
                found.append(known[prefix])
            return found

        whole = [path(c, len(sites)) for c in portfolio]
        first = min(1, layers - 1)
        prefix = path(network.default, boundary(network, first))
        stages = [[path(c, boundary(network, layer)) for c in portfolio] for layer in range(layers)]
        self.macs = np.array(macs, dtype=np.int64)
        self.paths = np.stack([self._mask(positions) for positions in whole])
        self.stages = np.stack([[self._mask(positions) for positions in stage] for stage in stages])
        self.stem, self.prefix = self._mask([0]), self._mask(prefix)
        self.whole = self.paths @ self.macs
        self.default = network.costs.macs(network.default, resolution)

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers by name, for :meth:`from_arrays`."""
        return {name: getattr(self, name) for name in _ARRAYS} | {"default": np.array(self.default, dtype=np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Costs:
        """Read back what :meth:`arrays` gave, without a network. Raises KeyError where something is missing."""
        costs = cls.__new__(cls)
        for name in _ARRAYS:
            setattr(costs, name, arrays[name])
        costs.whole, costs.default = costs.paths @ costs.macs, int(arrays["default"])
        return costs

    @cached_property
    def priced(self) -> np.ndarray:
        """(prefixes, portfolio) float64: what each prefix costs those configurations that run it."""
        return np.ascontiguousarray((self.paths * self.macs).T, dtype=np.float64)

    @property
    def layers(self) -> int:
        """How many dynamic layers there are."""
        return len(self.stages)

    def _mask(self, positions: list[int]) -> np.ndarray:
        mask = np.zeros(len(self.macs), dtype=bool)
        mask[positions] = True
        return mask
