"""A folder of compiled graphs, opened: what a process without PyTorch needs of a network.

RUN/compiled/float32/   compiled.json    what :class:`dynamic.compiled.record.CompiledRecord` says, with a checksum
                        weights.bin      every tensor of all graphs, each once
                        000.onnx, ...    the graphs, which refer to it
                        optimised/       the same for one kind of CPU, see :mod:`dynamic.compiled.optimising`
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import overload

import numpy as np

from dynamic.compiled.optimising import OPTIMISED, OptimisedGraphs
from dynamic.compiled.record import CompiledRecord, GraphRecord
from dynamic.compiled.runtimes import Graph, Precision, RuntimeName, open_runtime
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.integrity import digest_of_file, read_record
from dynamic.resources import available_memory, cpu_count

RECORD = "compiled.json"
WEIGHTS = "weights.bin"

FEW = 2
"""Images of a stretch that runs beside others: more fill two cores, and running them one after the other is cheaper."""

FEWEST = 8
"""Graphs that stay open, however little memory there is."""

_BETWEEN = 0.01
"""Seconds between two graphs of :meth:`CompiledNetwork.open_all`, in which whoever needs one at once gets its turn."""


class CompiledNetwork:
    """An opened folder. Graphs are made ready when they are first run, or all by :meth:`open_all`.

    Each holds tensors of its own, unless they were optimised for this kind of CPU: where there are too many for the memory
    that is free, the one not run longest is closed.

    Attributes:
        folder: that it was opened from.
        record: all that ``compiled.json`` says.
        configurations: the portfolio.
        default: the configuration that the network was trained with.
        channels, resolution, classes: of images (N, channels, resolution, resolution) and logits (N, classes).
        precision: ``float32``, ``bfloat16`` or ``int8``.
        runtime: ``onnxruntime`` or ``openvino``.
        digests: of the weights and statistics that the graphs were made from.
        makers: by what is asked, the graphs that give it.
        keys: by the file of a graph, what it gives in order.
        node_macs: (nodes,) int64 multiply-accumulates of one image between each node and the one before.
    """

    def __init__(self, folder: Path, record: CompiledRecord, runtime: str | None, threads: int | None) -> None:
        self.folder, self.record = folder, record
        self.configurations = tuple(map(Configuration.parse, record.configurations))
        self.default = Configuration.parse(record.default)
        self.channels, self.resolution, self.classes = record.channels, record.resolution, record.classes
        self.precision: Precision = record.precision
        self.digests: Mapping[str, str] = {"weights": record.weights, "statistics": record.statistics}
        self.runtime: RuntimeName
        self.runtime, self._runtime = open_runtime(self.precision, runtime, threads)
        self._paths = dict(zip(self.configurations, record.paths, strict=True))
        self._graphs: dict[str, Graph] = {}
        optimised = OptimisedGraphs.find(folder, record) if self.runtime == "onnxruntime" else None
        self._tensors = None if optimised is None else optimised.mapped()
        self._place, files = (folder, record.files) if optimised is None else (folder / OPTIMISED, optimised.files)
        self._files = dict(files)
        self._stamps = {name: _stamp(self._place / name) for name in files}
        self._lock = threading.Lock()
        self._most = max(FEWEST, available_memory() // 4 // max((folder / WEIGHTS).stat().st_size, 1))
        if optimised is not None:  # whose tensors are held once, however many are open
            self._most = len(record.graphs)
        self._threads = threads or cpu_count()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="compiled")
        self.makers = record.makers
        self.keys = {graph.file: tuple(output.key for output in graph.outputs) for graph in record.graphs}
        self.node_macs = np.array(record.macs, dtype=np.int64)
        self._on_path: dict[tuple[int, ...], np.ndarray] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        runtime: str | None = None,
        threads: int | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> CompiledNetwork:
        """Open a folder that :func:`dynamic.compiled.compiling.compile_network` made, after comparing every file's digest.

        Args:
            folder: ``RUN/compiled/PRECISION``.
            runtime, threads: see :func:`dynamic.compiled.runtimes.open_runtime`.
            digests: of ``weights`` and ``statistics`` that the graphs must have been made from; not compared unless given.

        Raises:
            UserError: nothing compiled there, a file that is missing or damaged, graphs of other weights or statistics, or a
                runtime or CPU that cannot run them.
        """
        if not (folder / RECORD).is_file():
            raise UserError(f"{folder} holds no compiled network (no {RECORD}): make it with python -m selector.compile")
        content = read_record(folder / RECORD)
        try:
            record = CompiledRecord.from_json(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / RECORD} is another version's ({error}): compile the run again") from error
        for name, expected in (digests or {}).items():
            found = getattr(record, name)
            if found != expected:
                raise UserError(f"{folder} was compiled from other {name} ({found}, not {expected}): compile the run again")
        for name, digest in record.files.items():
            try:
                found = digest_of_file(folder / name)
            except OSError as error:
                raise UserError(f"{folder / name} is missing ({error.strerror}): compile the run again") from error
            if found != digest:
                raise UserError(f"{folder / name} is damaged: it differs from its digest; compile the run again")
        return cls(folder, record, runtime, threads)

    def macs(self, configuration: Configuration) -> int:
        """Multiply-accumulates of one image under ``configuration``."""
        return int(self.node_macs[self.on_path(self.path(configuration))].sum())

    def path(self, configuration: Configuration) -> tuple[int, ...]:
        """The nodes of a configuration. Raises UserError where it is not compiled."""
        found = self._paths.get(configuration)
        if found is None:
            raise UserError(
                f"{configuration.id} is not among the {len(self._paths)} configurations compiled in {self.folder}"
            )
        return found

    def on_path(self, path: tuple[int, ...]) -> np.ndarray:
        """(nodes,) bool: which nodes lie on a path; kept, since sessions ask the same ones again and again."""
        found = self._on_path.get(path)
        if found is None:
            found = np.zeros(len(self.node_macs), dtype=bool)
            found[list(path)] = True
            self._on_path[path] = found
        return found

    def graph(self, file: str) -> Graph:
        """The graph of a file, ready to run. Raises UserError where the folder was made again since it was opened."""
        made = self._latest(file)
        if made is not None:
            return made
        made = self._load(file)  # while those that are open run; twice where two threads want it first, which does no harm
        return self._latest(file, made)

    def open_all(self, stopped: threading.Event, processes: int = 1) -> bool:
        """Open every graph, one after another, so that nobody who asks has to wait for it.

        None is closed for it. Where graphs hold tensors of their own, no more are opened than fit a quarter of the memory
        that was free, beside other processes that do the same; the others are opened when they are first run.

        Args:
            stopped: ends it, at the latest behind the graph at hand.
            processes: that share the memory.

        Returns:
            Whether all are open.

        Raises:
            UserError: as :meth:`graph` does.
        """
        most = self._most if self._tensors is not None else self._most // processes
        for graph in self.record.graphs:
            if stopped.wait(_BETWEEN) or (len(self._graphs) >= most and graph.file not in self._graphs):
                return False
            self.graph(graph.file)
        return True

    @overload
    def _latest(self, file: str) -> Graph | None: ...

    @overload
    def _latest(self, file: str, loaded: Graph) -> Graph: ...

    def _latest(self, file: str, loaded: Graph | None = None) -> Graph | None:
        """The graph of a file, from now on the one run last; ``loaded`` where it is not open."""
        with self._lock:
            made = self._graphs.pop(file, loaded)
            if made is not None:
                self._graphs[file] = made
                if len(self._graphs) > self._most:
                    del self._graphs[next(iter(self._graphs))]
            return made

    def _load(self, file: str) -> Graph:
        try:
            return self._runtime.load(self._place / file, None if self._tensors is None else self._tensors[file])
        finally:
            self._refuse_others(file)  # behind loading, so that what was loaded is known to be what was opened

    def _refuse_others(self, file: str) -> None:
        """Raise UserError where another network's graph may lie under the same name."""
        for name in (file, WEIGHTS):
            stamp = _stamp(self._place / name)
            if stamp != self._stamps[name]:
                if stamp is None or digest_of_file(self._place / name) != self._files[name]:
                    raise UserError(f"{self.folder} was compiled anew while it was in use: start again what uses it")
                self._stamps[name] = stamp

    def run(self, graph: GraphRecord, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What a stretch gives, in the order of its outputs."""
        return self.graph(graph.file)(inputs)

    def run_all(self, jobs: Sequence[tuple[GraphRecord, Mapping[str, np.ndarray]]]) -> list[list[np.ndarray]]:
        """:meth:`run` several stretches; those of few images side by side, since they do not fill the cores alone."""
        if len(jobs) < 2 or self._threads < 2:
            return [self.run(graph, inputs) for graph, inputs in jobs]
        made: dict[int, list[np.ndarray]] = {}
        few = [place for place, (_, inputs) in enumerate(jobs) if len(next(iter(inputs.values()))) <= FEW]
        waiting = iter(few if len(few) > 1 else ())

        def take_turns() -> None:
            for place in waiting:  # each is taken once: the iterator is shared
                made[place] = self.run(*jobs[place])

        helpers = [self._pool.submit(take_turns) for _ in range(min(self._threads, len(few)) - 1)]
        try:
            take_turns()
        finally:
            for helper in helpers:
                helper.result()
        return [made[place] if place in made else self.run(*job) for place, job in enumerate(jobs)]


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with a file: its size and time; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
