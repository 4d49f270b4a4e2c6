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

Key = tuple[str, int, str]
"""Of what is held: a kind of output, its node, and its name; see :class:`dynamic.compiled.record.GraphOutput`."""

_Job = tuple[GraphRecord, np.ndarray]
"""A stretch and the rows that it is to run on."""


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
        self._held: dict[Key, _Rows] = {}

    @property
    def macs(self) -> np.ndarray:
        """(N,) int64, see the class."""
        return np.asarray(self._ran @ np.array(self._network.record.macs, dtype=np.int64))

    def logits(self, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """(rows, classes) float32 under one configuration; others of its ladders may go on from what is made."""
        path = self._network.path(configuration)
        return self._made(_answer(path), path, rows)

    def mixed(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """(N, classes) float32, image i under ``configurations[i]``. Raises UserError unless there are N of them."""
        if len(configurations) != len(self._images):
            raise UserError(f"{len(self._images)} images but {len(configurations)} configurations")
        logits = np.empty((len(self._images), self._network.classes), dtype=np.float32)
        chosen = {c: np.flatnonzero([other == c for other in configurations]) for c in dict.fromkeys(configurations)}
        paths = {configuration: self._network.path(configuration) for configuration in chosen}
        self._run([job for c, rows in chosen.items() for job in self._jobs(_answer(paths[c]), paths[c], rows, final=True)])
        for configuration, rows in chosen.items():
            self._charge(paths[configuration], rows)
            logits[rows] = self._held[_answer(paths[configuration])].take(rows)
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
        return self._made(key, path, rows)

    def _made(self, key: Key, path: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """What ``key`` names, for some rows; charged, and run where it was not yet."""
        self._charge(path, rows)
        self._run(self._jobs(key, path, rows, final=False))
        return self._held[key].take(rows)

    def _charge(self, path: Sequence[int], rows: np.ndarray) -> None:
        self._ran[np.asarray(rows, dtype=np.int64)[:, None], list(path)] = True

    def _jobs(self, key: Key, path: Sequence[int], rows: np.ndarray, final: bool) -> list[_Job]:
        """What must run for those of ``rows`` that lack what ``key`` names, each from the deepest node it has values of.

        Where the answer is ``final``, nothing is emitted that others would go on from.
        """
        graphs = [graph for graph in self._network.stretches[path[-1]] if _gives(graph, key)]
        if final and any(graph.start is None and not graph.emits for graph in graphs):
            graphs = [graph for graph in graphs if graph.start is not None or not graph.emits]
        shape = next(o.shape for o in graphs[0].outputs if (o.kind, o.node, o.name) == key)
        missing = self._held.setdefault(key, _Rows(len(self._images), shape)).missing(rows)
        jobs = []
        for graph in graphs:
            able = self._able(graph, missing)
            if able.any():
                jobs.append((graph, missing[able]))
            missing = missing[~able]
        return jobs

    def _able(self, graph: GraphRecord, rows: np.ndarray) -> np.ndarray:
        """Which of ``rows`` have what ``graph`` reads."""
        if graph.start is None:
            return np.ones(len(rows), dtype=bool)
        held = self._held.get(("values", graph.start, graph.inputs[0]))
        return np.zeros(len(rows), dtype=bool) if held is None else held.has(rows)

    def _inputs(self, graph: GraphRecord, rows: np.ndarray) -> dict[str, np.ndarray]:
        if graph.start is None:
            return {"images": _some(self._images, rows)}
        return {name: self._held["values", graph.start, name].take(rows) for name in graph.inputs}

    def _run(self, jobs: Sequence[_Job]) -> None:
        made = self._network.run_all([(graph, self._inputs(graph, rows)) for graph, rows in jobs])
        for (graph, rows), outputs in zip(jobs, made, strict=True):
            for output, values in zip(graph.outputs, outputs, strict=True):
                key = (output.kind, output.node, output.name)
                held = self._held.setdefault(key, _Rows(len(self._images), output.shape))
                new = ~held.has(rows)
                if new.any():
                    held.add(rows[new], values if new.all() else values[new])


def _answer(path: Sequence[int]) -> Key:
    return ("logits", path[-1], "")


def _gives(graph: GraphRecord, key: Key) -> bool:
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
