"""What ``compiled.json`` says: everything about a network that a process without PyTorch must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dynamic.compiled.runtimes import PRECISIONS, Precision

VERSION = 3
"""Of the folder's layout and of what its graphs compute: one of another version is made again."""

OutputKind = Literal["values", "look", "logits"]

Key = tuple[str, int, str]
"""Of what graphs give: a kind of output, its node, and its name; see :class:`GraphOutput`."""


@dataclass(frozen=True, kw_only=True)
class GraphOutput:
    """One output of a graph: ``name`` is that of the value alive at ``node``, or the kind of a look."""

    kind: OutputKind
    node: int
    name: str
    shape: tuple[int, ...]

    @property
    def key(self) -> Key:
        """By which it is asked for."""
        return self.kind, self.node, self.name


@dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """One stretch: its file, the node that it starts at (None: the images), where it ends, and what it gives in order."""

    file: str
    start: int | None
    end: int
    inputs: tuple[str, ...]
    outputs: tuple[GraphOutput, ...]

    @property
    def emits(self) -> bool:
        """Whether it gives values that others go on from."""
        return any(output.kind == "values" for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class Makers:
    """The graphs that give one thing.

    Attributes:
        shape: of it, for one image.
        going_on: from values that were made before, those that go on from the deepest node first.
        first: from the images, with what others go on from; where nothing is emitted, as ``alone``.
        alone: from the images, with nothing that others go on from.
    """

    shape: tuple[int, ...]
    going_on: tuple[GraphRecord, ...]
    first: GraphRecord
    alone: GraphRecord


@dataclass(frozen=True, kw_only=True)
class CompiledRecord:
    """Of a compiled network.

    Attributes:
        precision: that the graphs compute in; images and outputs are float32 in all.
        weights, statistics: digests of the network and of its recalibrated batch norms ("own" where there are none).
        configurations: ids, in the order of the portfolio.
        default: id of the network's own configuration.
        channels, resolution, classes: of images and logits.
        depths: by dynamic layer, how many sites lie before what it reads.
        paths: by configuration, its nodes.
        macs: by node, multiply-accumulates of what runs between it and the one before.
        graphs: the stretches.
        files: SHA-256 of every file.
        versions: of what made them.
    """

    precision: Precision
    weights: str
    statistics: str
    configurations: tuple[str, ...]
    default: str
    channels: int
    resolution: int
    classes: int
    depths: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    macs: tuple[int, ...]
    graphs: tuple[GraphRecord, ...]
    files: dict[str, str]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """For :func:`dynamic.integrity.write_record`."""
        return {"version": VERSION, **asdict(self)}

    @property
    def makers(self) -> dict[Key, Makers]:
        """What is made of every leaf's logits and every look, by the graphs that end there."""
        depth = {node: place for path in self.paths for place, node in enumerate(path)}
        giving: dict[Key, list[GraphRecord]] = {}
        shapes: dict[Key, tuple[int, ...]] = {}
        for graph in self.graphs:
            for output in graph.outputs:
                if output.kind != "values" and output.node == graph.end:
                    giving.setdefault(output.key, []).append(graph)
                    shapes[output.key] = output.shape
        made: dict[Key, Makers] = {}
        for asked, graphs in giving.items():
            later = sorted((g for g in graphs if g.start is not None), key=lambda g: depth[g.start or 0], reverse=True)
            whole = sorted((g for g in graphs if g.start is None), key=lambda graph: graph.emits)
            made[asked] = Makers(shape=shapes[asked], going_on=tuple(later), first=whole[-1], alone=whole[0])
        return made

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CompiledRecord:
        """Read back; raises KeyError, TypeError or ValueError where the entries are others."""
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, not {VERSION}")
        entries = {name: value for name, value in content.items() if name != "version"}
        if entries["precision"] not in PRECISIONS:
            raise ValueError(f"precision {entries['precision']!r}")
        graphs = tuple(
            GraphRecord(
                **graph
                | {
                    "inputs": tuple(graph["inputs"]),
                    "outputs": tuple(
                        GraphOutput(**output | {"shape": tuple(output["shape"])}) for output in graph["outputs"]
                    ),
                }
            )
            for graph in entries["graphs"]
        )
        lists = {name: tuple(entries[name]) for name in ("configurations", "depths", "macs")}
        paths = tuple(tuple(path) for path in entries["paths"])
        return cls(**entries | lists | {"paths": paths, "graphs": graphs})
