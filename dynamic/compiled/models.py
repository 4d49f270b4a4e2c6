"""Small ONNX models, written without the package ``onnx``: that and what it imports take 20 MiB of a worker's memory.

A model is a message of Protocol Buffers. These are the fields of onnx.proto that small models have, by their numbers there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Attribute = int | Sequence[int] | np.ndarray
"""Of a node; an array becomes a tensor."""

_TYPES = {"float32": 1, "uint8": 2, "int64": 7, "float16": 10, "float64": 11}
"""Numbers of element types."""

_INT, _TENSOR, _INTS = 2, 4, 7
"""Numbers of attributes' types."""

_IR_VERSION, _OPSETS = 9, {"": 20, "ai.onnx.ml": 5}


def element_type(dtype: np.typing.DTypeLike) -> int:
    """The number of an element type, as Cast takes it."""
    return _TYPES[np.dtype(dtype).name]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation.

    Attributes:
        operation: its name.
        inputs, outputs: names of values.
        attributes: by name.
        domain: of the operation; ONNX's own unless given.
    """

    operation: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = ""


def small_model(
    nodes: Sequence[Node],
    inputs: Mapping[str, np.typing.DTypeLike],
    outputs: Mapping[str, np.typing.DTypeLike],
    constants: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """A model for :func:`dynamic.compiled.runtimes.small_graph`.

    Args:
        nodes: in an order in which each reads what is there already.
        inputs, outputs: element types by name; of any shape.
        constants: that nodes read, by name.
    """
    graph = b"".join(
        (
            *(_message(1, _node(node)) for node in nodes),
            _text(2, "small"),
            *(_message(5, _tensor(value, name)) for name, value in (constants or {}).items()),
            *(_message(11, _value(name, dtype)) for name, dtype in inputs.items()),
            *(_message(12, _value(name, dtype)) for name, dtype in outputs.items()),
        )
    )
    opsets = (_message(8, _text(1, domain) + _number(2, version)) for domain, version in _OPSETS.items())
    return b"".join((_number(1, _IR_VERSION), _message(7, graph), *opsets))


def _node(node: Node) -> bytes:
    parts = [_text(1, name) for name in node.inputs] + [_text(2, name) for name in node.outputs]
    parts.append(_text(4, node.operation))
    parts += [_message(5, _attribute(name, value)) for name, value in node.attributes.items()]
    return b"".join((*parts, _text(7, node.domain)))


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, np.ndarray):
        return _text(1, name) + _message(5, _tensor(value, name)) + _number(20, _TENSOR)
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT)
    return _text(1, name) + _message(8, b"".join(map(_varint, value))) + _number(20, _INTS)


def _tensor(value: np.ndarray, name: str) -> bytes:
    content = np.ascontiguousarray(value).tobytes()
    parts = [_varint(side) for side in value.shape]
    return _message(1, b"".join(parts)) + _number(2, element_type(value.dtype)) + _text(8, name) + _message(9, content)


def _value(name: str, dtype: np.typing.DTypeLike) -> bytes:
    return _text(1, name) + _message(2, _message(1, _number(1, element_type(dtype))))


def _text(number: int, value: str) -> bytes:
    return _message(number, value.encode())


def _message(number: int, value: bytes) -> bytes:
    """A field of bytes: text, a message, or numbers one after the other."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as of 64 bits."""
    value &= 2**64 - 1
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
