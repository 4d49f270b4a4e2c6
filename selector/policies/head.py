"""A small CNN on the features in front of layer B, trained on the correctness of all configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from dynamic.compiled.runtimes import Graph
from dynamic.errors import UserError
from selector.observation.images import Images
from selector.observation.observations import Observations, in_parts
from selector.policies.base import State
from selector.policies.gathering import gather, gather_recorded
from selector.policies.head_graph import FARTHEST, head_graph
from selector.policies.scoring import ScoringPolicy

EVALUATED = 1024
"""Images a batch when it decides."""

_SCALES = ("map_mean", "map_scale", "mean", "scale")


class Head(ScoringPolicy):
    """A CNN head, about 0.5 MMACs: two convolutions over the map, then two layers on their means and maxima and the stem.

    Loss: cross-entropy of every configuration's correctness, plus the expected error of a configuration drawn from the
    softmax of the scores, so that the order at the top counts and not the calibration everywhere.

    Args:
        epochs: passes over the label images.
        width: channels.
        sharpness: of that softmax, per point of probability.
        groups: ``map`` and the vectors beside it, see :class:`ScoringPolicy`.
        seed: of weights and order.

    Raises:
        UserError: groups without a map, or with a map alone.
    """

    name = "head"
    earlier: ClassVar[Mapping[str, Any]] = {"groups": ("map", "image", "stem")}

    def __init__(
        self,
        epochs: int = 12,
        width: int = 32,
        sharpness: float = 10.0,
        groups: Sequence[str] = ("map", "stem"),
        seed: int = 0,
    ) -> None:
        super().__init__(groups, seed)
        self.epochs, self.width, self.sharpness = epochs, width, sharpness
        self._vectors = tuple(group for group in self.groups if group != "map")
        if "map" not in self.groups or not self._vectors:
            raise UserError(f"the head needs the group 'map' and at least one beside it, such as 'stem', not {self.groups}")

    def _fit(self, observed: Observations) -> None:
        from selector.policies.head_training import train_head  # here: who only decides needs no torch

        vectors = gather_recorded(observed, self._vectors)
        self.map_mean_, spread = _channel_statistics(observed)
        self.map_scale_ = spread + np.float32(1e-3)
        self.mean_, self.scale_ = vectors.mean(axis=0), vectors.std(axis=0) + 1e-3
        maps = observed.grid
        weights = train_head(
            lambda rows: self._standardised(maps[rows], vectors[rows]),
            observed.correct,
            epochs=self.epochs,
            width=self.width,
            sharpness=self.sharpness,
            seed=self.seed,
        )
        scales = {name: getattr(self, f"{name}_") for name in _SCALES}
        self._restore(State(arrays={f"net.{name}": value for name, value in weights.items()} | scales))

    def _asked(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        maps = images.features("map")
        return maps, gather(images, self._vectors)

    def _standardised(self, maps: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps = (maps - self.map_mean_[:, None, None]) / self.map_scale_[:, None, None]
        return maps.astype(np.float32), ((vectors - self.mean_) / self.scale_).clip(-FARTHEST, FARTHEST).astype(np.float32)

    def _scores(self, images: Images) -> np.ndarray:
        maps, vectors = (np.ascontiguousarray(asked, dtype=np.float32) for asked in self._asked(images))
        if len(maps) <= EVALUATED:
            (logits,) = self._graph({"maps": maps, "vectors": vectors})
        else:
            parts = [slice(start, start + EVALUATED) for start in range(0, len(maps), EVALUATED)]
            logits = np.concatenate([self._graph({"maps": maps[part], "vectors": vectors[part]})[0] for part in parts])
        return np.asarray(1 / (1 + np.exp(-logits)))

    @cached_property
    def _graph(self) -> Graph:
        return head_graph(self.weights_, {name: getattr(self, f"{name}_") for name in _SCALES})

    def _state(self) -> State:
        arrays = {f"net.{name}": value for name, value in self.weights_.items()}
        return State(arrays=arrays | {name: getattr(self, f"{name}_") for name in _SCALES})

    def _restore(self, state: State) -> None:
        for name in _SCALES:
            setattr(self, f"{name}_", state.arrays[name])
        self.weights_ = {name.removeprefix("net."): v for name, v in state.arrays.items() if name.startswith("net.")}
        self.__dict__.pop("_graph", None)  # of the weights before
        reduce, see = self.weights_["reduce.weight"], self.weights_["see.weight"]
        places = 6 * 6
        layers = self.weights_["join.weight"].size + self.weights_["out.weight"].size
        self.own_macs_ = float(places * (reduce.size + see.size) + layers)


def _channel_statistics(observed: Observations) -> tuple[np.ndarray, np.ndarray]:
    """(channels,) float32 means and deviations of the maps, some images at a time, summed in double precision."""
    channels = observed.grid.shape[1]
    count, mean, squares = 0, np.zeros(channels), np.zeros(channels)
    for part in in_parts(observed):
        maps = np.asarray(part.grid, np.float32)
        here = maps.mean(axis=(0, 2, 3), dtype=np.float64)
        maps = maps - here[:, None, None].astype(np.float32)
        spread = np.square(maps, out=maps).mean(axis=(0, 2, 3), dtype=np.float64)
        total = count + len(part)
        squares += len(part) * spread + (here - mean) ** 2 * count * len(part) / total
        mean += (here - mean) * len(part) / total
        count = total
    return mean.astype(np.float32), np.sqrt(squares / count).astype(np.float32)
