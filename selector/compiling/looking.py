"""Everything that policies may see of some images, from the eager network and from a compiled one, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.needs import Look, Needs
from dynamic.compiled.session import CompiledSession
from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from oracle.data.sources import ImageSource
from oracle.runs import Run
from selector.observation.answers import classes_of, probabilities_of
from selector.observation.costs import Costs
from selector.observation.images import LiveImages
from selector.observation.looking import look_at_batch, stage_names
from selector.observation.observations import Observations
from selector.observation.rounding import rounded

BATCH = 32
"""Images that run together."""

CHUNK = 256
"""Images that are read, and that policies decide on, at once."""

_ROUNDED = ("image", "stem", "prefix", "grid")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one network gave of some images.

    Attributes:
        observed: everything that policies may ask for.
        probabilities: (N, K, classes) float32, unrounded.
    """

    observed: Observations
    probabilities: np.ndarray

    def first(self, count: int) -> Seen:
        """The same of the first images."""
        kept = np.arange(min(count, len(self.observed)))
        return Seen(observed=self.observed.rows(kept), probabilities=self.probabilities[kept])

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """Of images one after the other."""
        return cls(
            observed=Observations.joined([part.observed for part in parts]),
            probabilities=np.concatenate([part.probabilities for part in parts]),
        )


class Looker:
    """Looks at images of a run.

    Args:
        run: whose images.
        source: these.
        portfolio: of its policies.
        costs: of that portfolio.
    """

    def __init__(self, run: Run, source: ImageSource, portfolio: Sequence[Configuration], costs: Costs) -> None:
        self.run, self.source, self.portfolio, self.costs = run, source, tuple(portfolio), costs
        self.default = self.portfolio.index(run.network.default)
        self._stages, self._distinct = stage_names(run.network, portfolio)

    def chunks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows that could be read, :data:`CHUNK` at a time, and their images, (rows, C, H, W) float32."""
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            batch = self.source.load(part)
            if batch.readable.any():
                yield part[batch.readable], batch.images.numpy()[batch.readable]

    def eagerly(self, network: DynamicNetwork, rows: np.ndarray, images: np.ndarray) -> Seen:
        """What the eager network gives of (rows,) images (rows, C, H, W) float32."""
        return self._in_batches(lambda some, part: self._eager_batch(network, some, part), rows, images)

    def compiled(self, network: CompiledNetwork, needs: Needs, rows: np.ndarray, images: np.ndarray) -> Seen:
        """The same from a compiled network, every configuration and look once; what it has no graph for is left out."""
        return self._in_batches(lambda some, part: self._compiled_batch(network, needs, some, part), rows, images)

    def _in_batches(self, look: Callable[[np.ndarray, np.ndarray], Seen], rows: np.ndarray, images: np.ndarray) -> Seen:
        parts = [slice(start, start + BATCH) for start in range(0, len(rows), BATCH)]
        return Seen.joined([look(rows[part], images[part]) for part in parts])

    def _eager_batch(self, network: DynamicNetwork, rows: np.ndarray, images: np.ndarray) -> Seen:
        prepared = torch.from_numpy(images).to(memory_format=torch.channels_last)
        found = look_at_batch(network, prepared, self.portfolio, self._distinct, max_rows=256)
        stages = {name: found[name] for name in self._distinct.values()}
        groups = {name: found[name] for name in _ROUNDED}
        observed = self._observations(rows, groups, stages, found["probabilities"], found["predicted"])
        return Seen(observed=observed, probabilities=found["probabilities"])

    def _compiled_batch(self, network: CompiledNetwork, needs: Needs, rows: np.ndarray, images: np.ndarray) -> Seen:
        session = CompiledSession(network, images)
        live = LiveImages(session, images, self.portfolio, network.default, self.costs)
        everything = np.arange(len(rows))
        stages: dict[str, np.ndarray] = {}
        for look in sorted(needs.looks, key=lambda look: -look.layer):  # the deepest gives those before it
            if look.kind == "pooled":
                column = self.portfolio.index(look.configuration)
                stages[self._stages[look.layer][column]] = live.stage(look.layer, column, everything)
        nothing = np.empty((len(rows), 0), dtype=np.float32)
        groups = {"image": live.features("image"), "stem": nothing, "prefix": nothing, "grid": nothing}
        default, first = network.default, min(1, len(network.default.stride) - 1)
        if _has(needs, "gridded", first, default):
            groups["grid"] = live.features("map")
        if _has(needs, "pooled", 0, default):
            groups["stem"] = live.features("stem")
            if _has(needs, "pooled", first, default):
                groups["prefix"] = live.features("prefix")
        logits = np.stack([session.logits(c, everything) for c in self.portfolio], axis=1)
        flat = logits.reshape(-1, logits.shape[2])
        probabilities, predicted = probabilities_of(flat).reshape(logits.shape), classes_of(flat).reshape(logits.shape[:2])
        observed = self._observations(rows, groups, stages, probabilities, predicted)
        return Seen(observed=observed, probabilities=probabilities)

    def _observations(
        self,
        rows: np.ndarray,
        groups: dict[str, np.ndarray],
        stages: dict[str, np.ndarray],
        probabilities: np.ndarray,
        predicted: np.ndarray,
    ) -> Observations:
        labels, sides = self.source.labels[rows], self.source.metadata.get("side")
        return Observations(
            keys=self.source.keys[rows],
            splits=self.source.splits[rows],
            labels=labels,
            sides=None if sides is None else sides[rows],
            portfolio=self.portfolio,
            default=self.default,
            digests=self.run.digests,
            costs=self.costs,
            **{name: rounded(values) for name, values in groups.items()},
            stages=self._stages,
            stage_values={name: rounded(values) for name, values in stages.items()},
            probabilities=rounded(probabilities),
            predicted=predicted,
            p_true=probabilities[np.arange(len(labels)), :, labels],
        )


def _has(needs: Needs, kind: str, layer: int, configuration: Configuration) -> bool:
    return Look(kind=kind, layer=layer, configuration=configuration) in needs.looks
