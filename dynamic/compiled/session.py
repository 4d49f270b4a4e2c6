"""A batch of images on which compiled configurations run one after the other, nothing twice; without PyTorch.

Answers the questions of :class:`dynamic.session.Session` and charges the same multiply-accumulates for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.record import GraphRecord
from dynamic.configuration import Configuration
from dynamic.errors import UserError


class CompiledSession:
    """Runs stretches of a compiled network on demand and keeps what they made.

    A look at a deep layer gives the looks at the layers before it too, if policies need them: ask for the deepest first.

    Args:
        network: that was opened.
        images: (N, C, H, W) float32, normalised.

    Attributes:
        macs: (N,) int64 multiply-accumulates charged to each image: of every prefix of options that was asked for, once.

    Raises:
        UserError: images of another size than the network was compiled for.
    """

    def __init__(self, network: CompiledNetwork, images: np.ndarray) -> None:
        side = network.resolution
        if images.ndim != 4 or images.shape[1:] != (network.channels, side, side):
            raise UserError(f"images of shape {images.shape}: compiled for (N, {network.channels}, {side}, {side})")
        self._network = network
        self._images = np.ascontiguousarray(images, dtype=np.float32)
        self._ran = np.zeros((len(images), len(network.record.macs)), dtype=bool)
        self._held: dict[tuple[str, int, str], _Rows] = {}

    @property
    def macs(self) -> np.ndarray:
        """(N,) int64, see the class."""
        return np.asarray(self._ran @ np.array(self._network.record.macs, dtype=np.int64))

    def logits(self, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """(rows, classes) float32 under one configuration; others of its ladders may go on from what is made."""
        return self._answer(configuration, rows, final=False)

    def mixed(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """(N, classes) float32, image i under ``configurations[i]``. Raises UserError unless there are N of them."""
        if len(configurations) != len(self._images):
            raise UserError(f"{len(self._images)} images but {len(configurations)} configurations")
        logits = np.empty((len(self._images), self._network.classes), dtype=np.float32)
        for configuration in dict.fromkeys(configurations):
            rows = np.flatnonzero([other == configuration for other in configurations])
            logits[rows] = self._answer(configuration, rows, final=True)
        return logits

    def look(self, kind: str, layer: int, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """(rows, ...) float32: a look of some kind at what dynamic layer ``layer`` reads under a configuration.

        Raises:
            UserError: it was not compiled.
        """
        path = self._network.path(configuration)[: self._network.record.depths[layer] + 1]
        key = ("look", path[-1], kind)
        if not any(_gives(graph, key) for graph in self._network.stretches.get(path[-1], ())):
            raise UserError(f"no {kind} look at layer {'ABCDEF'[layer]} under {configuration.id} is compiled: compile again")
        self._charge(path, rows)
        self._ensure(key, path, rows, final=False)
        return self._held[key].take(rows)

    def _answer(self, configuration: Configuration, rows: np.ndarray, final: bool) -> np.ndarray:
        path = self._network.path(configuration)
        key = ("logits", path[-1], "")
        self._charge(path, rows)
        self._ensure(key, path, rows, final)
        return self._held[key].take(rows)

    def _charge(self, path: Sequence[int], rows: np.ndarray) -> None:
        self._ran[np.asarray(rows, dtype=np.int64)[:, None], list(path)] = True

    def _ensure(self, key: tuple[str, int, str], path: Sequence[int], rows: np.ndarray, final: bool) -> None:
        """Make what ``key`` names for those of ``rows`` that lack it, each from the deepest node that it has values of."""
        graphs = [graph for graph in self._network.stretches[path[-1]] if _gives(graph, key)]
        if final and any(graph.start is None and not graph.emits for graph in graphs):
            graphs = [graph for graph in graphs if graph.start is not None or not graph.emits]
        shape = next(o.shape for o in graphs[0].outputs if (o.kind, o.node, o.name) == key)
        missing = self._held.setdefault(key, _Rows(len(self._images), shape)).missing(rows)
        for graph in graphs:
            if not len(missing):
                return
            able = self._able(graph, missing)
            self._run(graph, missing[able])
            missing = missing[~able]

    def _able(self, graph: GraphRecord, rows: np.ndarray) -> np.ndarray:
        """Which of ``rows`` have what ``graph`` reads."""
        if graph.start is None:
            return np.ones(len(rows), dtype=bool)
        held = self._held.get(("values", graph.start, graph.inputs[0]))
        return np.zeros(len(rows), dtype=bool) if held is None else held.has(rows)

    def _run(self, graph: GraphRecord, rows: np.ndarray) -> None:
        if not len(rows):
            return
        if graph.start is None:
            inputs = {"images": _some(self._images, rows)}
        else:
            inputs = {name: self._held["values", graph.start, name].take(rows) for name in graph.inputs}
        made = self._network.run(graph, inputs)
        for output, values in zip(graph.outputs, made, strict=True):
            held = self._held.setdefault((output.kind, output.node, output.name), _Rows(len(self._images), output.shape))
            new = ~held.has(rows)
            if new.any():
                held.add(rows[new], values if new.all() else values[new])


def _gives(graph: GraphRecord, key: tuple[str, int, str]) -> bool:
    return any((output.kind, output.node, output.name) == key for output in graph.outputs)


def _some(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of ``values``; itself, uncopied, where those are all of them in order."""
    return values if len(rows) == len(values) and (rows == np.arange(len(values))).all() else values[rows]


class _Rows:
    """Values of some rows of a batch, in the order in which they were made."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self._where = np.full(count, -1)
        self._made = np.empty((0, *shape), dtype=np.float32)

    def has(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._where[rows] >= 0)

    def missing(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        return np.unique(rows[self._where[rows] < 0])

    def add(self, rows: np.ndarray, made: np.ndarray) -> None:
        self._where[rows] = np.arange(len(rows)) + len(self._made)
        self._made = np.concatenate([self._made, made]) if len(self._made) else made

    def take(self, rows: np.ndarray) -> np.ndarray:
        return _some(self._made, self._where[np.asarray(rows, dtype=np.int64)])
