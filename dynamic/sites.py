"""Which modules of a traced network belong to its dynamic layers, and what each may vary.

A layer is named by a convolution, a pool, or ``pool+convolution``. Where a residual block's shortcut, or another branch of a
concatenation, must keep the shape of the layer's own branch, its convolution or pool follows the stride. Where nobody names
layers, :func:`propose` finds them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from dynamic.attributes.registry import attributes, taken_by
from dynamic.branches import added_to, closure, followers, stride_of, usable
from dynamic.errors import UserError
from dynamic.graphs import graph_of, has_hooks
from dynamic.layers import DynamicPool2d
from dynamic.own_convolution import check_weight, dynamic_convolution
from dynamic.shapes import failure, fitting_images, meta_copy

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
        beside = followers(root, (pools or convs)[0])
        elsewhere = of_pool if pools else of_follower if beside is None else ()
        if beside is None:
            reason = f"{spec} lies beside a shortcut without a convolution, which cannot follow its stride"
            fixed |= {(layer, name): reason for name in of_follower}
        if not convs:
            fixed |= {(layer, name): f"{spec} is a pool" for name in everything if name not in of_pool}
        sites += [(node, layer, of_follower) for node in beside or ()] + [(pool, layer, of_pool) for pool in pools]
        sites += [(conv, layer, tuple(name for name in everything if name not in elsewhere)) for conv in convs]
    nodes = [node for node, _, _ in sites]
    twice = {str(node.target) for node in nodes if nodes.count(node) > 1}
    if twice:
        raise UserError(f"{', '.join(sorted(twice))} would be in two dynamic layers: name each once, no block's shortcut")
    return sites, fixed


def _node_of(root: fx.GraphModule, name: str) -> fx.Node:
    nodes = [node for node in root.graph.nodes if node.op == "call_module" and node.target == name]
    module = root.get_submodule(name) if nodes else None
    if len(nodes) == 1 and module is not None and usable(module):
        check_weight(module, f"dynamic layer {name!r}")
        if has_hooks(module):
            raise UserError(f"dynamic layer {name!r} has hooks, which a traced network would not call: remove them")
        if len(nodes[0].all_input_nodes) != 1:
            raise UserError(f"dynamic layer {name!r} reads more than one tensor; only one of a single input can be dynamic")
        node: fx.Node = nodes[0]
        return node
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        raise UserError(
            f"dynamic layer {name!r} is a {type(module).__name__}, a pool of its own kind, which cannot be dynamic"
        )
    known = candidates(root)
    if not nodes and name in known:
        raise UserError(f"dynamic layer {name!r} is never called when the network classifies; name one that is")
    if len(nodes) > 1:
        raise UserError(f"dynamic layer {name!r} is called {len(nodes)} times; only a layer used once can be dynamic")
    near = difflib.get_close_matches(name, known, 5, 0.3)
    listed = ", ".join(known[:40]) + (f", … ({len(known)} in all)" if len(known) > 40 else "")
    raise UserError(
        f"no convolution or pool is called {name!r}; "
        + (f"near it: {', '.join(near)}; " if near else "")
        + f"candidates: {listed}"
    )


def candidates(network: nn.Module) -> list[str]:
    """Names of the modules that can be dynamic: convolutions larger than 1 x 1, and pools.

    >>> candidates(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1)))
    ['0', '2']
    """
    return [
        name
        for name, module in network.named_modules()
        if usable(module) and not (isinstance(module, nn.Conv2d) and max(module.kernel_size) == 1)
    ]


PROPOSED = 4
"""Layers that the paper makes dynamic."""


def propose(network: nn.Module, resolution: int | None = None) -> list[str]:
    """Names of one to four layers to make dynamic, from input to output: where the network strides, as in the paper.

    Of every stage behind the stem that begins with a stride, the convolution that strides; where a pool does, the pool with
    the stage's first convolution, or that convolution alone if its block has a projection shortcut. If they are fewer than
    four, the first convolution of a stage without stride joins them. Each can vary at least one attribute, which was tried.

    Args:
        network: any module that :func:`dynamic.tracing.trace` takes.
        resolution: side in pixels of its images; common ones are tried otherwise.

    Raises:
        UserError: a network that cannot be traced, or where nothing can vary, and why.

    >>> import torchvision
    >>> propose(torchvision.models.mobilenet_v2())
    ['features.2.conv.1.0', 'features.4.conv.1.0', 'features.7.conv.1.0', 'features.14.conv.1.0']
    """
    root = graph_of(network)
    meta = meta_copy(root).eval()
    stages = _stages(root)
    if not stages:
        raise UserError(_nothing(network, root))
    images = fitting_images(meta, resolution or 224, network)
    reasons: dict[str, None] = {}
    offers = [(stage, _offers(root, meta, stage, images, reasons)) for stage in stages]
    offers = [(stage, found) for stage, found in offers if found]
    strided = [found for stage, found in offers if stage.begins]
    if len(strided) > PROPOSED:  # a last pool has only a stride
        strided = [found for found in strided if len(found[0].varies) > 1] or strided
    chosen: list[str] = []
    order = {str(node.target): position for position, node in enumerate(root.graph.nodes)}
    for found in [*reversed(strided), *(found for stage, found in reversed(offers) if not stage.begins)]:
        for proposal in found:
            together = sorted([*chosen, proposal.spec], key=lambda spec: order[spec.split("+")[0]])
            if len(chosen) < PROPOSED and _fit_together(root, together):
                chosen = together
                break
    if not chosen:
        nothing = f"no convolution or pool of {type(network).__name__} behind its first"
        raise UserError(f"{nothing} can vary its stride, dilation or kernel size: {'; '.join(list(reasons)[:3])}")
    return chosen


@dataclass(frozen=True)
class _Proposal:
    spec: str
    varies: frozenset[str]


def _offers(
    root: fx.GraphModule, meta: nn.Module, stage: _Stage, images: Tensor, reasons: dict[str, None]
) -> list[_Proposal]:
    """A stage's layers that can vary something, the best first; none after one that can vary everything is tried.

    Why the others cannot is put into ``reasons``.
    """
    found: list[_Proposal] = []
    for spec in stage.specs(root):
        try:
            varies = _varies(root, meta, spec, images)
        except UserError as error:
            reasons[str(error)] = None
            continue
        found.append(_Proposal(spec, varies))
        if len(varies) == len(attributes()):
            break
    return sorted(found, key=lambda proposal: ("stride" in proposal.varies, len(proposal.varies)), reverse=True)


def _fit_together(root: fx.GraphModule, specs: Sequence[str]) -> bool:
    """Whether no module is in two of these layers and none needs what a later layer makes."""
    try:
        sites, _ = find_sites(root, specs)
    except UserError:
        return False
    nodes = [node for node, _, _ in sites]
    return not any(
        closure(node, lambda node: node.all_input_nodes) & set(nodes[position + 1 :]) for position, node in enumerate(nodes)
    )


@dataclass
class _Stage:
    """Modules behind the stem whose maps are one size.

    Attributes:
        strides: convolutions larger than 1 x 1 that stride.
        pools: that stride.
        convolutions: larger than 1 x 1, of stride 1.
    """

    strides: list[fx.Node] = field(default_factory=list)
    pools: list[fx.Node] = field(default_factory=list)
    convolutions: list[fx.Node] = field(default_factory=list)

    @property
    def begins(self) -> bool:
        """Whether it begins with a stride."""
        return bool(self.strides or self.pools)

    def specs(self, root: fx.GraphModule, most: int = 3) -> list[str]:
        """Layers that it offers, the best first."""
        firsts = [str(node.target) for node in self.convolutions[:most]]
        specs = [str(node.target) for node in self.strides[:most]]
        for pool in self.pools[:most]:
            conv = next(iter(self.convolutions), None)
            if conv is not None and not (followers(root, conv) and added_to(conv)):
                specs.append(f"{pool.target}+{conv.target}")
        return [*specs, *firsts, *(str(pool.target) for pool in self.pools[:most])]


def _stages(root: fx.GraphModule) -> list[_Stage]:
    """The network's stages from input to output, by the product of the strides before."""
    stages: dict[int, _Stage] = {}
    behind: dict[fx.Node, int] = {}
    stem = True
    for node in root.graph.nodes:
        before = max((behind[source] for source in node.all_input_nodes), default=1)
        stride = stride_of(root, node)
        behind[node] = before * (stride or 1)
        if stride is None:
            continue
        module = root.get_submodule(str(node.target))
        is_conv = isinstance(module, nn.Conv2d)
        if stem and is_conv:
            stem = False
            continue
        if not usable(module) or (isinstance(module, nn.Conv2d) and max(module.kernel_size) == 1):
            continue
        stage = stages.setdefault(behind[node], _Stage())
        if is_conv:
            (stage.strides if stride > 1 else stage.convolutions).append(node)
        elif stride > 1:
            stage.pools.append(node)
    return [stages[product] for product in sorted(stages)]


def _varies(root: fx.GraphModule, meta: nn.Module, spec: str, images: Tensor) -> frozenset[str]:
    """The attributes that a layer can vary: strides are tried on the meta device, the others leave maps as they are.

    Raises:
        UserError: it is none that can be dynamic, or can vary nothing.
    """
    sites, fixed = find_sites(root, [spec])
    for node, _, _ in sites:
        module = root.get_submodule(str(node.target))
        dynamic_convolution(module) if isinstance(module, nn.Conv2d) else DynamicPool2d(module)  # type: ignore[arg-type]
    convs = [root.get_submodule(str(node.target)) for node, _, taken in sites if "kernel_size" in taken]
    even = any(isinstance(conv, nn.Conv2d) and conv.kernel_size[0] % 2 == 0 for conv in convs)
    varies = {name for name in attributes() if (0, name) not in fixed}
    if even:  # has no centre to grow or stride around
        return frozenset(varies & {"dilation"})
    modules = [meta.get_submodule(str(node.target)) for node, _, taken in sites if "stride" in taken]
    if "stride" in varies and not any(_runs(meta, modules, stride, images) for stride in (1, 2, 3, 4)):
        varies.remove("stride")
        fixed[0, "stride"] = f"with {spec}, the network fails at every other stride"
    if not varies:
        raise UserError("; ".join(dict.fromkeys(fixed.values())))
    return frozenset(varies)


def _runs(meta: nn.Module, modules: Sequence[Any], stride: int, images: Tensor) -> bool:
    """Whether the network runs with another stride of these modules."""
    built = [module.stride for module in modules]
    if built[-1] in (stride, (stride, stride)):
        return False
    for module in modules:
        module.stride = (stride, stride) if isinstance(module, nn.Conv2d) else stride
    try:
        return failure(meta, images) is None
    finally:
        for module, before in zip(modules, built, strict=True):
            module.stride = before


def _nothing(network: nn.Module, root: fx.GraphModule) -> str:
    """Why a network has no layers to try."""
    name = type(network).__name__
    convolutions = [node for node in root.graph.nodes if stride_of(root, node) is not None]
    if not convolutions:
        return f"{name} has no convolution and no pool that a trace finds: no layer of it can be dynamic"
    return (
        f"{name} has no layer to choose options for: behind {convolutions[0].target}, its first, "
        "it has no convolution larger than 1 x 1 and no pool"
    )
