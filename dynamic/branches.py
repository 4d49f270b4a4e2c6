"""What lies beside a module of a traced network: the shortcuts of its block, the branches of a concatenation.

Where two paths meet, their maps must have the same sides. A path beside a dynamic layer follows the layer's stride if it has
a convolution or pool of the same stride; if one path has none, the layer's stride cannot change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from dynamic.graphs import has_hooks

_SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_JOINS: tuple[Any, ...] = (
    *_SUMS,
    *(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"),
    *(torch.cat, torch.concat, torch.concatenate),
)
"""What needs maps of the same sides from all its branches."""


def followers(root: fx.GraphModule, strided: fx.Node) -> tuple[fx.Node, ...] | None:
    """What must follow the stride of ``strided``, a convolution or pool; None where a path beside it cannot."""
    images = [node for node in root.graph.nodes if node.op == "placeholder"]
    made_of_images = set().union(*(closure(node, _readers) for node in images), images)
    before, behind = closure(strided, _sources), closure(strided, _readers)
    stride = stride_of(root, strided)
    found: dict[fx.Node, None] = {}
    for node in root.graph.nodes:
        if node not in behind:
            continue
        if node.target in _JOINS:
            for other in node.all_input_nodes:
                if other in behind or other is strided or other not in made_of_images:
                    continue
                beside = (closure(other, _sources) | {other}) - before
                first = next((step for step in root.graph.nodes if step in beside and stride_of(root, step) == stride), None)
                module = root.get_submodule(str(first.target)) if first else None
                if first is None or module is None or not usable(module) or has_hooks(module):
                    return None
                found[first] = None
        if stride_of(root, node) not in (None, 1):
            break  # the block ends in another strided module
    return tuple(found)


def added_to(conv: fx.Node) -> bool:
    """Whether the first join behind ``conv`` adds, as a residual block's does."""
    behind = closure(conv, _readers)
    join = next((node for node in conv.graph.nodes if node in behind and node.target in _JOINS), None)
    return join is not None and join.target in _SUMS


def usable(module: nn.Module) -> bool:
    """Whether it can be dynamic: a convolution, subclasses included, or one of torch.nn's own pools."""
    return isinstance(module, nn.Conv2d) or type(module) in (nn.MaxPool2d, nn.AvgPool2d)


def stride_of(root: fx.GraphModule, node: fx.Node) -> int | None:
    """The stride of a convolution or pool; None of other nodes."""
    module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return None
    stride = module.stride
    return int(stride[0] if isinstance(stride, tuple) else stride)


def closure(start: fx.Node, neighbours: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    """What can be reached from ``start``, itself left out."""
    found: set[fx.Node] = set()
    todo = neighbours(start)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += neighbours(node)
    return found


def _sources(node: fx.Node) -> list[fx.Node]:
    return node.all_input_nodes


def _readers(node: fx.Node) -> list[fx.Node]:
    return list(node.users)
