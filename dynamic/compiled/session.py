"""A batch of images on which compiled configurations run one after the other, nothing twice; without PyTorch.

Answers the questions of :class:`dynamic.session.Session` and charges the same multiply-accumulates for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.record import GraphRecord, Key
from dynamic.configuration import Configuration
from dynamic.errors import UserError

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
        self._all = np.arange(len(images))
        self._ran = np.zeros((len(images), len(network.record.macs)), dtype=bool)
        self._held: dict[Key, _Rows] = {}

    @property
    def macs(self) -> np.ndarray:
        """(N,) int64, see the class."""
        return np.asarray(self._ran @ self._network.node_macs)

    def logits(self, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """(rows, classes) float32 under one configuration; others of its ladders may go on from what is made."""
        path = self._network.path(configuration)
        return self._made(_answer(path), path, rows)

    def mixed(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """(N, classes) float32, image i under ``configurations[i]``. Raises UserError unless there are N of them."""
        if len(configurations) != len(self._images):
            raise UserError(f"{len(self._images)} images but {len(configurations)} configurations")
        chosen: dict[Configuration, list[int]] = {}
        for row, configuration in enumerate(configurations):
            chosen.setdefault(configuration, []).append(row)
        if len(chosen) == 1:
            path = self._network.path(configurations[0])
            return np.array(self._made(_answer(path), path, self._all, final=True))
        wanted = [(self._network.path(configuration), np.array(rows)) for configuration, rows in chosen.items()]
        self._run([job for path, rows in wanted for job in self._jobs(_answer(path), rows, final=True)])
        logits = np.empty((len(self._images), self._network.classes), dtype=np.float32)
        for path, rows in wanted:
            self._charge(path, rows)
            logits[rows] = self._held[_answer(path)].take(rows)
        return logits

    def look(self, kind: str, layer: int, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """(rows, ...) float32: a look of some kind at what dynamic layer ``layer`` reads under a configuration.

        Raises:
            UserError: it was not compiled.
        """
        path = self._network.path(configuration)[: self._network.record.depths[layer] + 1]
        key = ("look", path[-1], kind)
        if key not in self._network.makers:
            raise UserError(f"no {kind} look at layer {'ABCDEF'[layer]} under {configuration.id} is compiled: compile again")
        return self._made(key, path, rows)

    def _made(self, key: Key, path: tuple[int, ...], rows: np.ndarray, final: bool = False) -> np.ndarray:
        """What ``key`` names, for some rows; charged, and run where it was not yet. See :meth:`_jobs` for ``final``."""
        rows = np.asarray(rows, dtype=np.int64)
        if not len(rows):
            return np.empty((0, *self._network.makers[key].shape), dtype=np.float32)
        self._charge(path, rows)
        held = self._held.get(key)
        if held is None or not held.whole:
            self._run(self._jobs(key, rows, final))
            held = self._held[key]
        return held.take(rows)

    def _charge(self, path: tuple[int, ...], rows: np.ndarray) -> None:
        if len(self._ran) == 1:  # without an index, which costs more than the charge
            self._ran |= self._network.on_path(path)
        else:
            self._ran[rows] |= self._network.on_path(path)

    def _jobs(self, key: Key, rows: np.ndarray, final: bool) -> list[_Job]:
        """What must run for those of ``rows`` that lack what ``key`` names, each from the deepest node it has values of.

        Where the answer is ``final``, nothing is emitted that others would go on from.
        """
        held = self._held.get(key)
        missing = rows if held is None else rows[~held.has(rows)]
        if len(missing) > 1 and not (missing[1:] > missing[:-1]).all():
            missing = np.unique(missing)
        makers = self._network.makers[key]
        jobs: list[_Job] = []
        for graph in makers.going_on:
            if not len(missing):
                break
            values = None if graph.start is None else self._held.get(("values", graph.start, graph.inputs[0]))
            if values is None:
                continue
            if values.whole:
                return [*jobs, (graph, missing)]
            able = values.has(missing)
            if able.any():
                jobs.append((graph, missing[able]))
                missing = missing[~able]
        if len(missing):
            jobs.append((makers.alone if final else makers.first, missing))
        return jobs

    def _inputs(self, graph: GraphRecord, rows: np.ndarray) -> dict[str, np.ndarray]:
        if graph.start is None:
            return {"images": _some(self._images, rows)}
        start = graph.start
        return {name: self._held["values", start, name].take(rows) for name in graph.inputs}

    def _run(self, jobs: Sequence[_Job]) -> None:
        made = self._network.run_all([(graph, self._inputs(graph, rows)) for graph, rows in jobs])
        for (graph, rows), outputs in zip(jobs, made, strict=True):
            places = _Places.of(rows, len(self._images))
            for key, values in zip(self._network.keys[graph.file], outputs, strict=True):
                held = self._held.get(key)
                if held is None:
                    self._held[key] = _Rows(places, values)
                else:
                    held.add(rows, values)


def _answer(path: Sequence[int]) -> Key:
    return ("logits", path[-1], "")


def _some(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of ``values``; uncopied where they follow each other."""
    count, first = len(rows), int(rows[0])
    if count == 1 or (int(rows[-1]) - first == count - 1 and (rows[1:] - rows[:-1] == 1).all()):
        return values[first : first + count]
    return values.take(rows, axis=0)


@dataclass(frozen=True)
class _Places:
    """Which rows of a batch something was made for: all of them in order, or each row's place, -1 where it was not."""

    where: np.ndarray | None

    @classmethod
    def of(cls, rows: np.ndarray, count: int) -> _Places:
        """Of ascending ``rows`` in a batch of ``count``; shared by all that one run of a graph gives."""
        if len(rows) == count:
            return cls(None)
        where = np.full(count, -1)
        where[rows] = np.arange(len(rows))
        return cls(where)


class _Rows:
    """Values of some rows of a batch, in the order in which they were made."""

    def __init__(self, places: _Places, made: np.ndarray) -> None:
        self._where, self._made = places.where, made

    @property
    def whole(self) -> bool:
        """Whether they are of the whole batch, made at once."""
        return self._where is None

    def has(self, rows: np.ndarray) -> np.ndarray:
        return np.ones(len(rows), dtype=bool) if self._where is None else np.asarray(self._where[rows] >= 0)

    def add(self, rows: np.ndarray, made: np.ndarray) -> None:
        """Take over those rows that are not there yet."""
        if self._where is None:
            return
        new = self._where[rows] < 0
        if not new.any():
            return
        where = self._where.copy()  # others share it
        where[rows[new]] = np.arange(np.count_nonzero(new)) + len(self._made)
        self._where, self._made = where, np.concatenate([self._made, made if new.all() else made[new]])

    def take(self, rows: np.ndarray) -> np.ndarray:
        return _some(self._made, rows if self._where is None else self._where[rows])
