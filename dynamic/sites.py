"""Which modules of a traced network belong to its dynamic layers, and what each may vary.

A layer is named by a convolution, a pool, or ``pool+convolution``. Where a residual block's shortcut, or another branch of a
concatenation, must keep the shape of the layer's own branch, its convolution or pool follows the stride.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from dynamic.attributes.registry import taken_by
from dynamic.errors import UserError

_JOINS: tuple[Any, ...] = (
    *(operator.add, operator.iadd, torch.add, "add", "add_"),
    *(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"),
    *(torch.cat, torch.concat, torch.concatenate),
)
"""What needs maps of the same sides from all its branches."""

FoundSites = list[tuple[fx.Node, int, tuple[str, ...]]]


def find_sites(root: fx.GraphModule, layers: Sequence[str]) -> tuple[FoundSites, dict[tuple[int, str], str]]:
    """The nodes of every layer with the attributes each takes, sites of fewer attributes first; and what cannot vary."""
    sites: FoundSites = []
    everything, of_pool, of_follower = taken_by("convolution"), taken_by("pool"), taken_by("follower")
    fixed: dict[tuple[int, str], str] = {}
    for layer, spec in enumerate(layers):
        nodes = [_node_of(root, name.strip()) for name in spec.split("+")]
        kinds = [type(root.get_submodule(str(node.target))) for node in nodes]
        pools = [node for node, kind in zip(nodes, kinds, strict=True) if not issubclass(kind, nn.Conv2d)]
        convs = [node for node in nodes if node not in pools]
        if len(pools) > 1 or len(convs) > 1:
            raise UserError(f"dynamic layer {spec!r}: one pool and one convolution at most")
        sites += [(pool, layer, of_pool) for pool in pools]
        if not convs:
            fixed |= {(layer, name): f"{spec} is a pool" for name in everything if name not in of_pool}
            continue
        if pools:
            sites.append((convs[0], layer, tuple(name for name in everything if name not in of_pool)))
            continue
        shortcut = _shortcut(root, convs[0])
        if shortcut is None:
            sites.append((convs[0], layer, everything))
        elif not shortcut.follows:
            reason = f"{spec} lies beside a shortcut without a convolution, which cannot follow its stride"
            fixed |= {(layer, name): reason for name in of_follower}
            sites.append((convs[0], layer, tuple(name for name in everything if name not in of_follower)))
        else:
            sites += [(node, layer, of_follower) for node in shortcut.follows] + [(convs[0], layer, everything)]
    nodes = [node for node, _, _ in sites]
    twice = {str(node.target) for node in nodes if nodes.count(node) > 1}
    if twice:
        raise UserError(f"{', '.join(sorted(twice))} would be in two dynamic layers: name each once, no block's shortcut")
    return sites, fixed


def _node_of(root: fx.GraphModule, name: str) -> fx.Node:
    nodes = [node for node in root.graph.nodes if node.op == "call_module" and node.target == name]
    if len(nodes) == 1 and isinstance(root.get_submodule(name), nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        node: fx.Node = nodes[0]
        return node
    usable = candidates(root)
    if len(nodes) > 1:
        raise UserError(f"dynamic layer {name!r} is called {len(nodes)} times; only a layer used once can be dynamic")
    near = difflib.get_close_matches(name, usable, 5, 0.3)
    listed = ", ".join(usable[:40]) + (f", … ({len(usable)} in all)" if len(usable) > 40 else "")
    raise UserError(
        f"no convolution or pool is called {name!r}; "
        + (f"near it: {', '.join(near)}; " if near else "")
        + f"candidates: {listed}"
    )


@dataclass(frozen=True)
class _Shortcut:
    """The paths beside a block: on each, the convolution or pool that follows the block's stride; empty if one has none."""

    follows: tuple[fx.Node, ...]


def _shortcut(root: fx.GraphModule, conv: fx.Node) -> _Shortcut | None:
    """What joins ``conv``'s block from beside it; None where nothing does."""
    before, behind = _closure(conv, lambda node: node.all_input_nodes), _closure(conv, lambda node: list(node.users))
    stride = _stride(root, conv)
    for node in root.graph.nodes:
        if node not in behind:
            continue
        others = [source for source in node.all_input_nodes if source not in behind and source is not conv]
        if node.target in _JOINS and others:
            firsts = []
            for other in others:
                beside = (_closure(other, lambda node: node.all_input_nodes) | {other}) - before
                firsts.append(
                    next((step for step in root.graph.nodes if step in beside and _stride(root, step) == stride), None)
                )
            return _Shortcut(() if None in firsts else tuple(dict.fromkeys(first for first in firsts if first)))
        if _stride(root, node) not in (None, 1):
            return None  # the block ended in another strided module
    return None


def _stride(root: fx.GraphModule, node: fx.Node) -> int | None:
    module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return None
    stride = module.stride
    return stride[0] if isinstance(stride, tuple) else stride


def _closure(start: fx.Node, neighbours: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    todo = neighbours(start)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += neighbours(node)
    return found


def candidates(network: nn.Module) -> list[str]:
    """Names of the modules that can be dynamic: square convolutions larger than 1 x 1, and pools.

    >>> candidates(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1)))
    ['0', '2']
    """
    names = []
    for name, module in network.named_modules():
        spatial = isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
        if spatial or isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            names.append(name)
    return names
