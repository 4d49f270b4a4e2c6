"""From an nn.Module and the names of its dynamic layers to steps that can be run once per shared prefix of options.

The network is traced with torch.fx. A *site* is one module of a dynamic layer (a convolution, a pool, or the projection
shortcut that must follow its block's stride). Every node is put as early as its inputs allow: before the first site, or
behind the last site it depends on. That gives an alternation of static segments and sites,

    segment 0, site 0, segment 1, site 1, ..., segment n

in which everything up to site i depends only on the options of the sites before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import fx, nn

from dynamic.attributes.registry import attributes, taken_by
from dynamic.batch_norms import check_norms, fold, norm_alone, split_fused
from dynamic.configuration import MAX_LAYERS, Configuration
from dynamic.errors import UserError
from dynamic.graphs import graph_of
from dynamic.layers import DynamicConv2d, DynamicPool2d
from dynamic.option import Option
from dynamic.out_of_place import work_out_of_place
from dynamic.own_convolution import dynamic_convolution
from dynamic.sites import find_sites

BatchNormMode = Literal["kept", "folded", "by_prefix"]


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
    attributes: tuple[str, ...]
    module: DynamicConv2d | DynamicPool2d
    input: str
    output: str

    def option(self, configuration: Configuration) -> Option:
        """What this site runs with under ``configuration``."""
        return self.module.default.changed({name: configuration.options(name)[self.layer] for name in self.attributes})


@dataclass(frozen=True)
class Segment:
    """Static nodes between two sites: ``module`` maps the values ``inputs`` to a tuple of the values ``outputs``.

    Attributes:
        norms: batch norms that ``module`` does not hold but asks for: its last argument is an object whose
            ``normalise(x, i)`` does the work of ``norms[i]``. Empty unless traced with batch norms ``by_prefix``.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    norms: tuple[nn.BatchNorm2d, ...] = ()


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
    fixed: dict[tuple[int, str], str]
    default: Configuration


def trace(
    network: nn.Module, layers: Sequence[str], batch_norm: BatchNormMode = "kept", *, training: bool = False
) -> Program:
    """Trace ``network`` and split it at the sites of ``layers``.

    Args:
        network: its modules are shared with the program, not copied, unless folded.
        layers: qualified names from input to output; ``pool+conv`` names a layer whose stride is the pool's and whose
            dilation and kernel size are the convolution's.
        batch_norm: ``kept`` as modules; ``folded`` into the convolutions before them (inference only, equal within
            rounding); or ``by_prefix``, left to the walk, which knows the options so far (see :class:`Segment`).
        training: trace what ``forward`` does in training mode.

    Raises:
        UserError: a network torch.fx cannot trace, a name that is no convolution or pool, a wrong number or order of layers.
    """
    graph_module = graph_of(network, [name.strip() for spec in layers for name in spec.split("+")], training)
    graph = graph_module.graph
    _check_arguments(graph, type(network).__name__)
    if training:
        _leave_out_auxiliary(graph)
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise UserError(f"one to {MAX_LAYERS} dynamic layers, not {len(layers)}")
    check_norms(graph_module)
    if batch_norm != "kept":
        split_fused(graph_module)
    work_out_of_place(graph_module)
    found, fixed = find_sites(graph_module, layers)
    folded = fold(graph_module) if batch_norm == "folded" else set()
    # A pool beside a convolution that has all attributes is its block's shortcut.
    beside = {layer for _, layer, taken in found if taken == taken_by("convolution")}
    sites = [
        _make_site(graph_module, node, layer, taken, fixed_bias=node in folded, follows=layer in beside)
        for node, layer, taken in found
    ]
    inlined = _inlined(graph)
    steps = _assign_steps(graph, [node for node, _, _ in found], layers, inlined)
    default = _default_configuration(sites, len(layers))
    return _split(graph_module, sites, steps, inlined, fixed, default, batch_norm == "by_prefix")


def _check_arguments(graph: fx.Graph, name: str) -> None:
    _, *others = [node for node in graph.nodes if node.op == "placeholder"]
    for node in others:
        if node.users:
            raise UserError(
                f"{name}.forward takes {node.target!r} beside the images: wrap it in a module that takes images only"
            )
        graph.erase_node(node)


def _leave_out_auxiliary(graph: fx.Graph) -> None:
    """Keep the first of what a network returns in training, such as Inception's logits beside its auxiliary head's."""
    output = next(node for node in graph.nodes if node.op == "output")
    result = output.args[0]
    if isinstance(result, fx.Node) and isinstance(result.target, type) and issubclass(result.target, tuple):
        result = result.args  # a named tuple is made by a step of its own
    if isinstance(result, tuple):
        output.args = (result[0],)
        graph.eliminate_dead_code()


def _make_site(
    root: fx.GraphModule, node: fx.Node, layer: int, attributes: tuple[str, ...], *, fixed_bias: bool, follows: bool
) -> Site:
    name = str(node.target)
    built = root.get_submodule(name)
    module: DynamicConv2d | DynamicPool2d
    if isinstance(built, nn.Conv2d):
        module = dynamic_convolution(built, fixed_bias)
    else:
        assert isinstance(built, nn.MaxPool2d | nn.AvgPool2d)
        module = DynamicPool2d(built, follows)
    (source,) = node.all_input_nodes
    return Site(name, layer, attributes, module, source.name, node.name)


def _inlined(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Nodes computed anew wherever they are used, with the carried nodes that they read.

    They have no image axis to be carried along: parameters and what is computed from them alone, sizes and types of tensors.
    """
    inlined: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "call_module"):
            continue
        size = (
            node.target in ("size", "dim", "numel")
            if node.op == "call_method"
            else node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
        )
        if size or all(source in inlined for source in node.all_input_nodes):
            reads = [inlined.get(source, [source]) for source in node.all_input_nodes]
            inlined[node] = list(dict.fromkeys(source for sources in reads for source in sources))
    return inlined


def _reads(node: fx.Node, inlined: dict[fx.Node, list[fx.Node]]) -> list[fx.Node]:
    """The carried nodes that ``node`` reads, itself or through inlined ones."""
    return [source for direct in node.all_input_nodes for source in inlined.get(direct, [direct])]


def _assign_steps(
    graph: fx.Graph, site_nodes: list[fx.Node], layers: Sequence[str], inlined: dict[fx.Node, list[fx.Node]]
) -> dict[fx.Node, int]:
    """Step 2i is segment i, step 2i + 1 is site i; inlined nodes have none."""
    order = {node: 2 * index + 1 for index, node in enumerate(site_nodes)}
    steps: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node in inlined:
            continue
        inputs = [steps[source] for source in _reads(node, inlined)]
        earliest = max((step + step % 2 for step in inputs), default=0)
        steps[node] = order.get(node, earliest)
        if node in order and earliest > order[node]:
            raise UserError(f"name the dynamic layers from input to output: {', '.join(layers)} are not in that order")
    return steps


def _default_configuration(sites: Sequence[Site], layers: int) -> Configuration:
    options: dict[str, list[float]] = {name: [attribute.neutral] * layers for name, attribute in attributes().items()}
    for site in sites:
        for name, attribute in attributes().items():
            if name in site.attributes or options[name][site.layer] == attribute.neutral:
                options[name][site.layer] = site.module.default.of(name)
    return Configuration.of({name: tuple(chosen) for name, chosen in options.items()})


def _split(
    root: fx.GraphModule,
    sites: list[Site],
    steps: dict[fx.Node, int],
    inlined: dict[fx.Node, list[fx.Node]],
    fixed: dict[tuple[int, str], str],
    default: Configuration,
    by_prefix: bool,
) -> Program:
    output = next(node for node in root.graph.nodes if node.op == "output")
    images = next(node for node in root.graph.nodes if node.op == "placeholder")
    result = output.args[0]
    if not isinstance(result, fx.Node) or result in inlined:
        raise UserError("the network must return one tensor of logits, not a tuple or dictionary")
    last = 2 * len(sites)
    steps[output] = last
    needed_until = dict.fromkeys(steps, -1)
    for node, step in steps.items():
        for source in _reads(node, inlined):
            needed_until[source] = max(needed_until[source], step)
    live = [
        frozenset(node.name for node, made in steps.items() if made <= step < needed_until[node]) for step in range(last)
    ] + [frozenset([result.name])]
    segments = tuple(
        _make_segment(
            root, [n for n in steps if steps[n] == step and n not in (images, output)], inlined, live[step], by_prefix
        )
        for step in range(0, last + 1, 2)
    )
    return Program(images.name, result.name, segments, tuple(sites), tuple(live), fixed, default)


def _make_segment(
    root: fx.GraphModule,
    nodes: list[fx.Node],
    inlined: dict[fx.Node, list[fx.Node]],
    live: frozenset[str],
    by_prefix: bool,
) -> Segment:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inside = set(nodes)
    inputs = dict.fromkeys(source for node in nodes for source in _reads(node, inlined) if source not in inside)
    for source in inputs:  # placeholders first
        copies[source] = graph.placeholder(source.name)
    norms: list[nn.BatchNorm2d] = []
    asked = graph.placeholder("norms_by_prefix") if by_prefix else None

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            for source in node.all_input_nodes:
                copied(source)
            module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
            if asked is not None and isinstance(module, nn.BatchNorm2d) and norm_alone(module):
                (x,) = node.all_input_nodes
                copies[node] = graph.call_method("normalise", (asked, copies[x], len(norms)))
                norms.append(module)
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        return copies[node]

    for node in nodes:
        copied(node)
    outputs = [node for node in nodes if node.name in live]
    graph.output(tuple(copies[node] for node in outputs))
    return Segment(
        fx.GraphModule(root, graph),
        tuple(source.name for source in inputs),
        tuple(node.name for node in outputs),
        tuple(norms),
    )
