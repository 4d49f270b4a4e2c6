"""What a layer cannot vary though its place in the graph would let it: strides under which the network does not run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dynamic.attributes.stride import STRIDES_FROM_C
from dynamic.configuration import Configuration
from dynamic.macs import CostModel, Resolution
from dynamic.tracing import Program

_TRIED = sorted(STRIDES_FROM_C, key=lambda stride: (stride < 1, stride))
"""Strides that a layer is tried with, the likeliest to fit first."""


def stuck_strides(program: Program, costs: CostModel, resolution: Resolution) -> dict[tuple[int, str], str]:
    """Layers of which the network takes no stride but the default, with the reason.

    Args:
        program: the traced network.
        costs: of it.
        resolution: of images that it takes under the default configuration.

    Returns:
        As :attr:`dynamic.tracing.Program.fixed`, what that holds already left out.
    """
    found: dict[tuple[int, str], str] = {}
    for layer in range(len(program.default.stride)):
        if (layer, "stride") in program.fixed:
            continue
        failures = []
        for configuration in _other_strides(program.default, layer):
            failure = costs.failure(configuration, resolution)
            if failure is None:
                break
            failures.append(failure)
        else:
            found[layer, "stride"] = f"the network fails at every other stride ({failures[0]})"
    return found


def _other_strides(default: Configuration, layer: int) -> Iterator[Configuration]:
    for stride in _TRIED:
        if stride != default.stride[layer]:
            yield replace(default, stride=(*default.stride[:layer], stride, *default.stride[layer + 1 :]))
