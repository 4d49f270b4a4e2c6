"""From an nn.Module and the names of its dynamic layers to steps that can be run once per shared prefix of options.

The network is traced with torch.fx. A *site* is one module of a dynamic layer (a convolution, a pool, or the projection
shortcut that must follow its block's stride). Every node is put as early as its inputs allow: before the first site, or
behind the last site it depends on. That gives an alternation of static segments and sites,

    segment 0, site 0, segment 1, site 1, ..., segment n

in which everything up to site i depends only on the options of the sites before it.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from dynamic.configuration import ATTRIBUTES, MAX_LAYERS, Attribute, Configuration
from dynamic.errors import UserError
from dynamic.layers import DynamicConv2d, DynamicPool2d, Option

_JOINS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, torch.cat, "add", "add_")
_OUT_OF_PLACE: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


@dataclass(frozen=True)
class Site:
    """One module of a dynamic layer.

    Attributes:
        name: its qualified name in the original network.
        layer: index of the dynamic layer, 0 for A.
        attributes: what it takes from the configuration; the rest stays as built.
        module: the dynamic convolution or pool.
        input, output: names of the values it reads and makes.
    """

    name: str
    layer: int
    attributes: tuple[Attribute, ...]
    module: DynamicConv2d | DynamicPool2d
    input: str
    output: str

    def option(self, configuration: Configuration) -> Option:
        """What this site runs with under ``configuration``."""
        chosen = {name: getattr(configuration, name)[self.layer] for name in self.attributes}
        return self.module.default._replace(**chosen)


@dataclass(frozen=True)
class Segment:
    """Static nodes between two sites: ``module`` maps the values ``inputs`` to a tuple of the values ``outputs``."""

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """The traced network: ``segments[i]`` runs before ``sites[i]``; one more segment runs last.

    Attributes:
        live: for each step (segment 0, site 0, segment 1, ...), the values still needed after it.
        fixed: attributes that a layer cannot vary, by (layer, attribute), with the reason.
    """

    input: str
    output: str
    segments: tuple[Segment, ...]
    sites: tuple[Site, ...]
    live: tuple[frozenset[str], ...]
    fixed: dict[tuple[int, Attribute], str]
    default: Configuration


def trace(network: nn.Module, layers: Sequence[str], fold_batch_norm: bool = False) -> Program:
    """Trace ``network`` and split it at the sites of ``layers``.

    Args:
        network: in eval mode; its modules are shared with the program, not copied, unless folded.
        layers: qualified names from input to output; ``pool+conv`` names a layer whose stride is the pool's and whose
            dilation and kernel size are the convolution's.
        fold_batch_norm: fold each batch norm into the convolution before it (inference only, equal within rounding).

    Raises:
        UserError: a network torch.fx cannot trace, a name that is no convolution or pool, a wrong number or order of layers.
    """
    try:
        graph_module = fx.symbolic_trace(network)
    except Exception as error:
        raise UserError(f"torch.fx cannot trace {type(network).__name__}: {error}") from error
    graph = graph_module.graph
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise UserError(f"one to {MAX_LAYERS} dynamic layers, not {len(layers)}")
    _make_functional(graph)
    found, fixed = _find_sites(graph_module, layers)
    folded = _fold_batch_norms(graph_module) if fold_batch_norm else set()
    # A pool beside a convolution that has all three attributes is its block's shortcut.
    beside = {layer for _, layer, attributes in found if attributes == ATTRIBUTES}
    sites = [
        _make_site(graph_module, node, layer, attributes, fixed_bias=node in folded, follows=layer in beside)
        for node, layer, attributes in found
    ]
    steps = _assign_steps(graph, [node for node, _, _ in found], layers)
    default = _default_configuration(sites, len(layers))
    return _split(graph_module, sites, [node for node, _, _ in found], steps, fixed, default)


def candidates(network: nn.Module) -> list[str]:
    """Names of the modules that can be dynamic: square convolutions larger than 1 x 1, and pools."""
    names = []
    for name, module in network.named_modules():
        spatial = isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
        if spatial or isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            names.append(name)
    return names


def _make_functional(graph: fx.Graph) -> None:
    """Replace operators that write into their operand, which several branches may share."""
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _OUT_OF_PLACE:
            node.target = _OUT_OF_PLACE[node.target]
        if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            node.target = node.target[:-1]


_FoundSites = list[tuple[fx.Node, int, tuple[Attribute, ...]]]


def _find_sites(root: fx.GraphModule, layers: Sequence[str]) -> tuple[_FoundSites, dict[tuple[int, Attribute], str]]:
    """The nodes of every layer with the attributes each takes, sites of fewer attributes first; and what cannot vary."""
    sites: _FoundSites = []
    fixed: dict[tuple[int, Attribute], str] = {}
    for layer, spec in enumerate(layers):
        nodes = [_node_of(root, name) for name in spec.split("+")]
        kinds = [type(root.get_submodule(str(node.target))) for node in nodes]
        pools = [node for node, kind in zip(nodes, kinds, strict=True) if not issubclass(kind, nn.Conv2d)]
        convs = [node for node in nodes if node not in pools]
        if len(pools) > 1 or len(convs) > 1:
            raise UserError(f"dynamic layer {spec!r}: one pool and one convolution at most")
        sites += [(pool, layer, ("stride",)) for pool in pools]
        if not convs:
            fixed[layer, "dilation"] = fixed[layer, "kernel_size"] = f"{spec} is a pool"
            continue
        if pools:
            sites.append((convs[0], layer, ("dilation", "kernel_size")))
            continue
        shortcut = _shortcut(root, convs[0])
        if shortcut is None:
            sites.append((convs[0], layer, ATTRIBUTES))
        elif shortcut.follows is None:
            fixed[layer, "stride"] = f"{spec} lies beside a shortcut without a convolution, which cannot follow its stride"
            sites.append((convs[0], layer, ("dilation", "kernel_size")))
        else:
            sites += [(shortcut.follows, layer, ("stride",)), (convs[0], layer, ATTRIBUTES)]
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
    """The path beside a residual block: its convolution or pool that follows the block's stride, None if it has none."""

    follows: fx.Node | None


def _shortcut(root: fx.GraphModule, conv: fx.Node) -> _Shortcut | None:
    """The shortcut beside ``conv``'s block; None where no path joins the convolution's."""
    before, behind = _closure(conv, lambda node: node.all_input_nodes), _closure(conv, lambda node: list(node.users))
    stride = _stride(root, conv)
    for node in root.graph.nodes:
        if node not in behind:
            continue
        others = [source for source in node.all_input_nodes if source not in behind and source is not conv]
        if node.target in _JOINS and others:
            beside = _closure(others[0], lambda node: node.all_input_nodes) | {others[0]}
            follows = [other for other in root.graph.nodes if other in beside - before and _stride(root, other) == stride]
            return _Shortcut(follows[0] if follows else None)
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


def _fold_batch_norms(root: fx.GraphModule) -> set[fx.Node]:
    """Fold batch norms into copies of the convolutions before them; return the nodes whose bias is now a shift."""
    folded = set()
    for node in list(root.graph.nodes):
        if node.op != "call_module" or not isinstance(norm := root.get_submodule(str(node.target)), nn.BatchNorm2d):
            continue
        source = node.args[0]
        assert isinstance(source, fx.Node)
        conv = root.get_submodule(str(source.target)) if source.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or conv.bias is not None or len(source.users) > 1 or norm.running_mean is None:
            continue
        parent, _, name = str(source.target).rpartition(".")
        setattr(root.get_submodule(parent), name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(source)
        root.graph.erase_node(node)
        folded.add(source)
    return folded


def _make_site(
    root: fx.GraphModule, node: fx.Node, layer: int, attributes: tuple[Attribute, ...], *, fixed_bias: bool, follows: bool
) -> Site:
    name = str(node.target)
    built = root.get_submodule(name)
    module: DynamicConv2d | DynamicPool2d
    if isinstance(built, nn.Conv2d):
        module = DynamicConv2d(built, fixed_bias)
    else:
        assert isinstance(built, nn.MaxPool2d | nn.AvgPool2d)
        module = DynamicPool2d(built, follows)
    (source,) = node.all_input_nodes
    return Site(name, layer, attributes, module, source.name, node.name)


def _assign_steps(graph: fx.Graph, site_nodes: list[fx.Node], layers: Sequence[str]) -> dict[fx.Node, int]:
    """Step 2i is segment i, step 2i + 1 is site i."""
    order = {node: 2 * index + 1 for index, node in enumerate(site_nodes)}
    steps: dict[fx.Node, int] = {}
    for node in graph.nodes:
        # Parameters are read where they are used; they have no image axis to be carried along.
        inputs = [steps[source] for source in node.all_input_nodes if source.op != "get_attr"]
        earliest = max((step + step % 2 for step in inputs), default=0)
        steps[node] = order.get(node, earliest)
        if node in order and earliest > order[node]:
            raise UserError(f"name the dynamic layers from input to output: {', '.join(layers)} are not in that order")
    return steps


def _default_configuration(sites: Sequence[Site], layers: int) -> Configuration:
    options: dict[Attribute, list[float]] = {name: [1] * layers for name in ATTRIBUTES}
    for site in sites:
        for name in ATTRIBUTES:
            if name in site.attributes or options[name][site.layer] == 1:
                options[name][site.layer] = getattr(site.module.default, name)
    return Configuration(*(tuple(options[name]) for name in ATTRIBUTES))  # type: ignore[arg-type]


def _split(
    root: fx.GraphModule,
    sites: list[Site],
    site_nodes: list[fx.Node],
    steps: dict[fx.Node, int],
    fixed: dict[tuple[int, Attribute], str],
    default: Configuration,
) -> Program:
    nodes = list(root.graph.nodes)
    output = next(node for node in nodes if node.op == "output")
    placeholders = [node for node in nodes if node.op == "placeholder"]
    result = output.args[0]
    if not isinstance(result, fx.Node):
        raise UserError("the network must return one tensor of logits, not a tuple or dictionary")
    last = 2 * len(sites)
    steps[output] = last
    needed_until = {node: max((steps[user] for user in node.users), default=-1) for node in nodes}
    carried = [node for node in nodes if node.op != "get_attr" and needed_until[node] > steps[node]]
    live = [frozenset(node.name for node in carried if steps[node] <= step < needed_until[node]) for step in range(last)] + [
        frozenset([result.name])
    ]
    segments = tuple(
        _make_segment(
            root, [n for n in nodes if steps[n] == step and n.op not in ("placeholder", "output", "get_attr")], live[step]
        )
        for step in range(0, last + 1, 2)
    )
    return Program(placeholders[0].name, result.name, segments, tuple(sites), tuple(live), fixed, default)


def _make_segment(root: fx.GraphModule, nodes: list[fx.Node], live: frozenset[str]) -> Segment:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inputs: list[str] = []
    inside = set(nodes)
    outside = {source: None for node in nodes for source in node.all_input_nodes if source not in inside}
    for source in outside:  # placeholders first
        if source.op != "get_attr":
            copies[source] = graph.placeholder(source.name)
            inputs.append(source.name)
    for source in outside:
        if source.op == "get_attr":
            copies[source] = graph.node_copy(source)
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda source: copies[source])
    outputs = [node for node in nodes if node.name in live]
    graph.output(tuple(copies[node] for node in outputs))
    return Segment(fx.GraphModule(root, graph), tuple(inputs), tuple(node.name for node in outputs))
