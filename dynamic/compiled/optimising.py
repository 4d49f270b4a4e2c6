"""Graphs as ONNX Runtime optimises them for a kind of CPU, made once; their tensors are shared by all graphs and processes.

A session that optimises a graph itself lays out tensors of its own: memory goes by the number of graphs. Here the tensors
of all graphs lie in one file, each content once, which is mapped into memory; and graphs open ten times as fast.

FOLDER/optimised/   optimised.json    for which runtime, CPU and graphs; what each graph reads where; digests
                    weights.bin, 000.onnx, ...
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynamic.compiled.record import CompiledRecord
from dynamic.compiled.runtimes import layout_of_onnxruntime, write_optimised
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.integrity import digest_of_file, read_record, write_record

OPTIMISED = "optimised"
"""Folder in a folder of graphs."""

RECORD, WEIGHTS = "optimised.json", "weights.bin"


class Place(NamedTuple):
    """Where a tensor lies in the file: the byte that it begins at, its dtype and shape."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class OptimisedGraphs:
    """What :func:`optimise` made, opened.

    Attributes:
        folder: ``FOLDER/optimised``.
        files: SHA-256 of every file.
        tensors: by graph's file and name of a tensor.
    """

    folder: Path
    files: Mapping[str, str]
    tensors: Mapping[str, Mapping[str, Place]]

    @classmethod
    def find(cls, folder: Path, record: CompiledRecord) -> OptimisedGraphs | None:
        """Those of a folder of graphs; None where there are none, or they are for another runtime, CPU or graphs.

        Raises:
            UserError: a file is missing or damaged.
        """
        there = folder / OPTIMISED
        if not (there / RECORD).is_file():
            return None
        content = read_record(there / RECORD)
        if content.get("for") != layout_of_onnxruntime() or content.get("graphs") != record.files:
            return None
        for name, digest in content["files"].items():
            path = there / name
            if not path.is_file() or digest_of_file(path) != digest:
                raise UserError(f"{path} is missing or damaged: it differs from its digest; compile the run again")
        tensors = {
            file: {name: Place(offset, dtype, tuple(shape)) for name, (offset, dtype, shape) in places.items()}
            for file, places in content["tensors"].items()
        }
        return cls(folder=there, files=content["files"], tensors=tensors)

    def mapped(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Every graph's tensors, in the file as it lies in memory; equal ones are one object."""
        content = np.memmap(self.folder / WEIGHTS, mode="r")
        known: dict[Place, np.ndarray] = {}
        for places in self.tensors.values():
            for place in places.values():
                if place not in known:
                    size = int(np.prod(place.shape)) * np.dtype(place.dtype).itemsize
                    known[place] = content[place.offset : place.offset + size].view(place.dtype).reshape(place.shape)
        return {file: {name: known[place] for name, place in places.items()} for file, places in self.tensors.items()}


def optimise(folder: Path, record: CompiledRecord) -> None:
    """Leave optimised graphs in ``folder/optimised``; nothing where it cannot be told for which CPUs they would be.

    Args:
        folder: of float32 graphs. (Of 8 bits ONNX Runtime packs tensors anew in every session, and nothing would be shared.)
        record: of them.
    """
    import onnx  # here: who only runs graphs does without
    from onnx.external_data_helper import load_external_data_for_model

    from dynamic.compiled.pieces import Weights

    layout = layout_of_onnxruntime()
    if layout is None:
        return
    made = folder / OPTIMISED
    made.mkdir()
    weights, tensors = Weights(), {}
    with tempfile.TemporaryDirectory(dir=folder) as name:  # a temporary folder elsewhere may have no room
        for graph in record.graphs:
            optimised = Path(name) / graph.file
            write_optimised(folder / graph.file, optimised)
            model = onnx.load(optimised, load_external_data=False)
            load_external_data_for_model(model, str(folder))  # of tensors that are still those of the graph
            model = weights.moved(model, WEIGHTS)
            tensors[graph.file] = {
                tensor.name: Place(
                    next(int(entry.value) for entry in tensor.external_data if entry.key == "offset"),
                    onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name,
                    tuple(tensor.dims),
                )
                for tensor in model.graph.initializer
                if tensor.data_location == onnx.TensorProto.EXTERNAL
            }
            write_whole(made / graph.file, model.SerializeToString())
            optimised.unlink()
    write_whole(made / WEIGHTS, bytes(weights.content))
    files = {path.name: digest_of_file(path) for path in sorted(made.iterdir())}
    write_record(made / RECORD, {"for": layout, "graphs": record.files, "files": files, "tensors": tensors})
