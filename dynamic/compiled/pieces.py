"""Pieces of static graphs: one step of a network under fixed options and shapes, as ONNX nodes.

Steps are exported once for each prefix of options, and stretches are put together from them. PyTorch's TorchScript-based
exporter takes a few milliseconds a layer, the newer one seconds a network, so that one only runs what the first cannot.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.shapes import first_line

OPSET = 18

LOOK = "look"
"""What the names of the nodes of looks begin with."""

_INLINE = 64
"""Elements of a tensor up to which it stays in the graph."""


@dataclass(frozen=True)
class Piece:
    """Nodes of a graph whose names are its own.

    Attributes:
        nodes: ONNX nodes; what they read is in ``inputs``, ``tensors`` or made by one of them.
        inputs, outputs: names of values.
        tensors: constants by name.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: dict[str, np.ndarray]


class _Called(nn.Module):
    """A function as the module that the exporter wants, with the module whose parameters it reads."""

    def __init__(self, run: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self._run = run

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._run(*values))


def export(
    run: Callable[..., Sequence[Tensor]], examples: Sequence[Tensor], what: str, factors: Sequence[Tensor] = ()
) -> Piece:
    """What ``run`` computes, for any number of images.

    Args:
        run: from tensors (N, ...) to tensors (N, ...), a pure function.
        examples: its inputs for a few images; other axes than the first are fixed.
        what: it is, for the error.
        factors: further inputs, without an axis of images.

    Raises:
        UserError: neither of PyTorch's exporters can write it.
    """
    inputs = [f"input{position}" for position in range(len(examples) + len(factors))]
    model = _Called(run).eval()
    reason = ""
    for exporter in (_traced, _exported):
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                graph = exporter(model, (*examples, *factors), inputs, len(examples)).graph
        except Exception as error:  # whatever an exporter raises for code that it cannot write
            reason = reason or first_line(error)
            continue
        return _piece(graph)
    raise UserError(f"{what} cannot be written as a static graph: {reason}; serve this network uncompiled")


def _traced(model: nn.Module, examples: tuple[Tensor, ...], inputs: list[str], batched: int) -> onnx.ModelProto:
    written = io.BytesIO()
    torch.onnx.export(
        model,
        examples,
        written,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=OPSET,
        input_names=inputs,
        dynamic_axes={name: {0: "images"} for name in inputs[:batched]},
        do_constant_folding=False,
    )
    return onnx.load_model_from_string(written.getvalue())


def _exported(model: nn.Module, examples: tuple[Tensor, ...], inputs: list[str], batched: int) -> onnx.ModelProto:
    # A tuple of arguments (*values) is one argument to this exporter.
    shapes = (tuple({0: torch.export.Dim("images", min=1)} if i < batched else {} for i in range(len(inputs))),)
    program: Any = torch.onnx.export(
        model, examples, None, dynamo=True, opset_version=OPSET, input_names=inputs, dynamic_shapes=shapes, verbose=False
    )
    proto: onnx.ModelProto = program.model_proto
    return proto


def _piece(graph: onnx.GraphProto) -> Piece:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = numpy_helper.to_array(node.attribute[0].t)
            if value.size > _INLINE:
                tensors[node.output[0]] = value
                continue
        nodes.append(node)
    return Piece(tuple(nodes), tuple(i.name for i in graph.input), tuple(o.name for o in graph.output), tensors)


class Weights:
    """The tensors of all graphs, each content once, as one file.

    Attributes:
        content: of the file.
    """

    def __init__(self) -> None:
        self.content = bytearray()
        self._known: dict[str, tuple[int, int]] = {}
        self._seen: dict[int, tuple[np.ndarray, str]] = {}

    def refer(self, name: str, value: np.ndarray, location: str, again: bool = True) -> onnx.TensorProto:
        """A tensor that lies in the file; a small one is in the graph.

        Where the same object comes ``again`` it is known without reading it, and kept for that.
        """
        if value.size <= _INLINE or value.dtype == object:
            return numpy_helper.from_array(np.asarray(value, order="C"), name)
        tensor = onnx.TensorProto(name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
        if id(value) in self._seen:
            key = self._seen[id(value)][1]
        else:
            key = self._store(np.ascontiguousarray(value).tobytes())
            if again:
                self._seen[id(value)] = (value, key)
        offset, length = self._known[key]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for entry, text in (("location", location), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=entry, value=text)
        return tensor

    def moved(self, model: onnx.ModelProto, location: str) -> onnx.ModelProto:
        """``model`` with its tensors in the file."""
        tensors = [self.refer(t.name, numpy_helper.to_array(t), location, again=False) for t in model.graph.initializer]
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors)
        return model

    def _store(self, content: bytes) -> str:
        key = sha256(content).hexdigest()
        if key not in self._known:
            self.content += bytes(-len(self.content) % 64)
            self._known[key] = (len(self.content), len(content))
            self.content += content
        return key


class GraphBuilder:
    """One static graph, put together from pieces; values go by the names that they have in it."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, np.ndarray] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, shape: Sequence[int]) -> str:
        """A further input, (images, *shape) float32."""
        self._inputs.append(_info(name, shape))
        return name

    def add(self, piece: Piece, values: Sequence[str], factors: Sequence[np.ndarray] = (), label: str = "") -> list[str]:
        """Append a piece that reads ``values``, with ``factors``; gives the names of what it makes.

        ``label`` is what the names of its nodes begin with.
        """
        prefix = f"{label}{self._count}/"
        self._count += 1
        names = dict(zip(piece.inputs, values, strict=False))
        for name, factor in zip(piece.inputs[len(values) :], factors, strict=True):
            self._tensors[prefix + name] = factor
        for name, value in piece.tensors.items():
            self._tensors[prefix + name] = value

        def renamed(name: str) -> str:
            return name and names.get(name, prefix + name)

        for node in piece.nodes:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            del copied.input[:], copied.output[:]
            copied.input.extend(map(renamed, node.input))
            copied.output.extend(map(renamed, node.output))
            copied.name = prefix + node.name
            copied.ClearField("doc_string")
            copied.ClearField("metadata_props")
            self._nodes.append(copied)
        return [renamed(name) for name in piece.outputs]

    def output(self, value: str, name: str, shape: Sequence[int]) -> None:
        """Give ``value`` as a further output, (images, *shape) float32."""
        self._nodes.append(onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(_info(name, shape))

    def model(self, weights: Weights, location: str) -> onnx.ModelProto:
        """The graph as a model whose tensors lie in the file ``location``."""
        tensors = [weights.refer(name, value, location) for name, value in self._tensors.items()]
        graph = onnx.helper.make_graph(self._nodes, "stretch", self._inputs, self._outputs, tensors)
        opset = [onnx.helper.make_opsetid("", OPSET)]
        return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name="learned-selector")


def _info(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["images", *shape])
