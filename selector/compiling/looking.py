"""Everything that policies may see of some images, from the eager network and from a compiled one, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
from selector.observation.observations import Observations, rounded

BATCH = 32
"""Images that run together."""

_ROUNDED = ("image", "stem", "prefix", "grid")


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

    def batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows that could be read, :data:`BATCH` at a time, and their images, (rows, C, H, W) float32."""
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            batch = self.source.load(part)
            yield part[batch.readable], batch.images.numpy()[batch.readable]

    def eagerly(self, network: DynamicNetwork, rows: np.ndarray, images: np.ndarray) -> tuple[Observations, np.ndarray]:
        """Observations of a batch, and its (N, K, classes) float32 probabilities, unrounded."""
        prepared = torch.from_numpy(images).to(memory_format=torch.channels_last)
        found = look_at_batch(network, prepared, self.portfolio, self._distinct, max_rows=256)
        stages = {name: found[name] for name in self._distinct.values()}
        groups = {name: found[name] for name in _ROUNDED}
        return self._observations(rows, groups, stages, found["probabilities"], found["predicted"]), found["probabilities"]

    def compiled(self, network: CompiledNetwork, needs: Needs, rows: np.ndarray, images: np.ndarray) -> Observations:
        """The same from a compiled network; what it has no graph for is left out."""
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
        return self._observations(rows, groups, stages, probabilities, predicted)

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


def look_at_all(
    looker: Looker,
    rows: np.ndarray,
    look: Callable[[np.ndarray, np.ndarray], Observations],
    progress: Callable[[int], object],
) -> Observations:
    """Observations of many images, batch by batch.

    Args:
        looker: reads them.
        rows: of its source.
        look: at (rows,) images (rows, C, H, W).
        progress: called with the images of each batch.
    """
    parts = []
    for part, images in looker.batches(rows):
        if len(part):
            parts.append(look(part, images))
        progress(min(BATCH, len(rows)))
    return Observations.joined(parts)


def _has(needs: Needs, kind: str, layer: int, configuration: Configuration) -> bool:
    return Look(kind=kind, layer=layer, configuration=configuration) in needs.looks
