"""Multiply-accumulates and memory of a dynamic network, measured on meta tensors (no data, no arithmetic).

Costs depend on a path of options only through the shapes it leaves, so each (step, option, shapes) is counted once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.layers import Option
from dynamic.tracing import Program

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""The values alive between two steps, by name, for one image."""

Resolution = int | tuple[int, int]


class CostModel:
    """Counts of one program; see :meth:`DynamicNetwork.macs`.

    Args:
        program: the traced network; a copy of it goes to the meta device.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        modules = [segment.module for segment in program.segments] + [site.module for site in program.sites]
        copies = [copy.deepcopy(module).to("meta").requires_grad_(False) for module in modules]
        self._segments, self._sites = copies[: len(program.segments)], copies[len(program.segments) :]
        self._known: dict[tuple[int, Option | None, Shapes], tuple[int, Shapes, int]] = {}

    def macs(self, configuration: Configuration, resolution: Resolution) -> int:
        """MACs of one image under one configuration."""
        return sum(cost for _, cost, _, _ in self._path(configuration, resolution))

    def of_space(self, configurations: Sequence[Configuration], resolution: Resolution) -> np.ndarray:
        """MACs of one image under each configuration, (configurations,) int64."""
        return np.array([self.macs(configuration, resolution) for configuration in configurations], dtype=np.int64)

    def shared(self, configurations: Sequence[Configuration], resolution: Resolution) -> int:
        """MACs of one image under all configurations when every common prefix runs once."""
        steps = {}
        for configuration in configurations:
            prefix: tuple[Option, ...] = ()
            for step, cost, option, _ in self._path(configuration, resolution):
                prefix += () if option is None else (option,)
                steps[step, prefix] = cost
        return sum(steps.values())

    def row_bytes(self, configurations: Sequence[Configuration], resolution: Resolution) -> int:
        """Bytes of float32 that one image may hold alive at once on its way through the walk: an upper estimate.

        At every depth the walk keeps one batch's values waiting; on top of them comes the widest step's working space.
        Activations only: weights and the larger kernels derived from them are not in it.
        """
        waiting: dict[int, int] = {}
        widest = 0
        for configuration in configurations:
            for step, _, _, (held, working) in self._path(configuration, resolution):
                waiting[step] = max(waiting.get(step, 0), held)
                widest = max(widest, working)
        return 4 * (sum(waiting[step] for step in waiting if step % 2) + 4 * widest)

    @property
    def classes(self) -> int:
        """Number of classes, read off the last linear layer or convolution that the output depends on."""
        for module in reversed(list(self._segments[-1].modules())):
            if isinstance(module, nn.Linear):
                return module.out_features
            if isinstance(module, nn.Conv2d):
                return module.out_channels
        raise UserError("cannot tell the number of classes: no linear layer or convolution behind the last dynamic layer")

    def _path(
        self, configuration: Configuration, resolution: Resolution
    ) -> list[tuple[int, int, Option | None, tuple[int, int]]]:
        """(step, MACs, option at a site, (values alive after it, widest value inside it)) of every step."""
        height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
        shapes: Shapes = ((self._program.input, (1, 3, height, width)),)
        path = []
        for step in range(2 * len(self._program.sites) + 1):
            option = self._program.sites[step // 2].option(configuration) if step % 2 else None
            try:
                cost, shapes, working = self._step(step, option, shapes)
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"{configuration.id} does not fit the network at {height} x {width} pixels: {str(error).splitlines()[0]}"
                ) from error
            path.append((step, cost, option, (sum(_elements(shape) for _, shape in shapes), working)))
        return path

    def _step(self, step: int, option: Option | None, shapes: Shapes) -> tuple[int, Shapes, int]:
        key = (step, option, shapes)
        if key not in self._known:
            self._known[key] = self._count(step, option, {name: torch.empty(shape, device="meta") for name, shape in shapes})
        return self._known[key]

    @torch.no_grad()
    def _count(self, step: int, option: Option | None, state: dict[str, Tensor]) -> tuple[int, Shapes, int]:
        program = self._program
        before = max(_elements(tuple(tensor.shape)) for tensor in state.values())
        with FlopCounterMode(display=False) as counter:
            if option is None:
                segment = program.segments[step // 2]
                made = self._segments[step // 2](*(state[name] for name in segment.inputs))
                state |= dict(zip(segment.outputs, made, strict=True))
            else:
                site = program.sites[step // 2]
                state[site.output] = self._sites[step // 2](state[site.input], option)
        live = program.live[step]
        for name in live:
            value = state[name]
            if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != 1:
                raise UserError(
                    f"the network passes {name!r} from one dynamic layer to the next; it is not one row an image"
                )
        shapes = tuple((name, tuple(state[name].shape)) for name in sorted(live))
        widest = max([before] + [_elements(shape) for _, shape in shapes])
        # One multiply-add is two floating-point operations.
        return counter.get_total_flops() // 2, shapes, widest


def _elements(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
