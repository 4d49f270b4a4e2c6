"""Receptive fields of a dynamic network under a configuration, followed along the traced graph (paper, section 4.5).

A unit's receptive field is the side, in input pixels, of the window it can see. A convolution or pool of kernel k, dilation
d and stride s on maps whose neighbours are j input pixels apart adds d (k - 1) j and leaves neighbours s j apart.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import fx, nn

from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from dynamic.option import call_under
from dynamic.tracing import Segment


class Field(NamedTuple):
    """Side of the receptive field and distance of neighbours, in input pixels."""

    side: float
    step: float


def receptive_fields(network: DynamicNetwork, configuration: Configuration) -> list[float]:
    """The receptive field behind each dynamic layer's stage: where the next layer begins, and where pooling ends all.

    Global pooling and what follows it see everything and are left out.

    Args:
        network: any dynamic network.
        configuration: one that it takes.

    Returns:
        Sides in input pixels, one a dynamic layer.

    >>> import dynamic
    >>> network = dynamic.load("resnet50-slim")
    >>> receptive_fields(network, network.default)
    [35, 91, 267, 427]
    """
    program = network.program
    known: dict[str, Field] = {program.input: Field(1, 1)}
    sides: list[float] = []
    layer = 0
    for index, segment in enumerate(program.segments):
        _follow(segment, known)
        if index == len(program.sites):
            break
        site = program.sites[index]
        if site.layer > layer:
            sides.append(known[site.input].side)
            layer = site.layer
        option = site.option(configuration)
        before = known[site.input]
        call = call_under(option)
        step = before.step * (0.5 if call.gaps else 1)  # gaps come before the kernel
        known[site.output] = Field(before.side + call.dilation * (option.kernel_size - 1) * step, step * call.stride)
    return [*sides, known[program.output].side]


def _follow(segment: Segment, known: dict[str, Field]) -> None:
    """Add what a segment makes of the values known."""
    inside: dict[fx.Node, Field] = {}
    for node in segment.module.graph.nodes:
        if node.op == "placeholder":
            inside[node] = known[str(node.target)]
        elif node.op == "output":
            known.update(zip(segment.outputs, (inside[source] for source in node.args[0]), strict=True))
        elif sources := [inside[source] for source in node.all_input_nodes if source in inside]:
            module = segment.module.get_submodule(str(node.target)) if node.op == "call_module" else None
            inside[node] = _behind(module, max(sources))  # where branches meet, the one that saw most


def _behind(module: nn.Module | None, before: Field) -> Field:
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return before
    kernel, stride, dilation = (_one(getattr(module, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    return Field(before.side + dilation * (kernel - 1) * before.step, before.step * stride)


def _one(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else value
