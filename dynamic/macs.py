"""Multiply-accumulates and memory of a dynamic network, measured on meta tensors (no data, no arithmetic).

Costs depend on a path of options only through the shapes it leaves, so each (step, option, shapes) is counted once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynamic.configuration import Configuration
from dynamic.errors import DoesNotFitError, UserError
from dynamic.option import Option
from dynamic.shapes import FAILURES, first_line, meta_copy, on_meta
from dynamic.tracing import Program

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""The values alive between two steps, by name, for one image."""

Resolution = int | tuple[int, int]


class _Step(NamedTuple):
    """What one step costs: its MACs, the values alive after it, the elements of the widest value in it."""

    macs: int
    shapes: Shapes
    widest: int


class CostModel:
    """Counts of one program; see :meth:`DynamicNetwork.macs`.

    Args:
        program: the traced network; a copy of it goes to the meta device.
        channels: of the images.

    >>> import dynamic
    >>> network = dynamic.load("resnet50-slim")
    >>> space = dynamic.space("dilation", network)
    >>> int(network.costs.of_space(space, 96).sum()) / network.costs.shared(space, 96) > 3     # what sharing prefixes saves
    True
    """

    def __init__(self, program: Program, channels: int = 3) -> None:
        self._program, self._channels = program, channels
        modules = [segment.module for segment in program.segments] + [site.module for site in program.sites]
        copies = [meta_copy(module).to(torch.float32) for module in modules]
        self._segments, self._sites = copies[: len(program.segments)], copies[len(program.segments) :]
        self._known: dict[tuple[int, Option | None, Shapes], _Step | str] = {}

    def macs(self, configuration: Configuration, resolution: Resolution) -> int:
        """MACs of one image under one configuration."""
        return sum(step.macs for step in self._path(configuration, resolution))

    def steps(self, configuration: Configuration, resolution: Resolution) -> list[int]:
        """MACs of one image in each step: segment 0, site 0, segment 1, and so on."""
        return [step.macs for step in self._path(configuration, resolution)]

    def of_space(self, configurations: Sequence[Configuration], resolution: Resolution) -> np.ndarray:
        """MACs of one image under each configuration, (configurations,) int64."""
        return np.array([self.macs(configuration, resolution) for configuration in configurations], dtype=np.int64)

    def shared(self, configurations: Sequence[Configuration], resolution: Resolution) -> int:
        """MACs of one image under all configurations when every common prefix runs once."""
        macs = {}
        for configuration in configurations:
            prefix: tuple[Option, ...] = ()
            for index, step in enumerate(self._path(configuration, resolution)):
                if index % 2:
                    prefix += (self._program.sites[index // 2].option(configuration),)
                macs[index, prefix] = step.macs
        return sum(macs.values())

    def row_bytes(self, configurations: Sequence[Configuration], resolution: Resolution, item_bytes: int = 4) -> int:
        """Bytes that one image may hold alive at once on its way through the walk: an upper estimate.

        At every depth the walk keeps one batch's values waiting; on top of them comes the widest step's working space.
        Activations only: weights and the larger kernels derived from them are not in it.
        """
        waiting: dict[int, int] = {}
        widest = 0
        for configuration in configurations:
            for index, step in enumerate(self._path(configuration, resolution)):
                held = sum(math.prod(shape) for _, shape in step.shapes)
                waiting[index] = max(waiting.get(index, 0), held if index % 2 else 0)
                widest = max(widest, step.widest)
        return item_bytes * (sum(waiting.values()) + 4 * widest)

    def answer(self, resolution: Resolution) -> tuple[int, ...]:
        """Shape of what the network makes of one image of ``resolution``: (1, classes) of a classifier."""
        *_, last = self._path(self._program.default, resolution)
        ((_, shape),) = last.shapes
        return tuple(shape)

    def classes(self, resolution: Resolution) -> int:
        """Number of classes: the last axis of the logits at ``resolution``."""
        return self.answer(resolution)[-1]

    def failure(self, configuration: Configuration, resolution: Resolution) -> str | None:
        """What the network raises under ``configuration`` on images of ``resolution``; None where it runs."""
        found = self._try_path(configuration, resolution)
        return found if isinstance(found, str) else None

    def _path(self, configuration: Configuration, resolution: Resolution) -> list[_Step]:
        """Every step of one image under ``configuration``."""
        found = self._try_path(configuration, resolution)
        if isinstance(found, str):
            height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
            raise UserError(f"{configuration.id} does not fit the network at {height} x {width} pixels: {found}")
        return found

    def _try_path(self, configuration: Configuration, resolution: Resolution) -> list[_Step] | str:
        height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
        shapes: Shapes = ((self._program.input, (1, self._channels, height, width)),)
        path: list[_Step] = []
        for index in range(2 * len(self._program.sites) + 1):
            option = self._program.sites[index // 2].option(configuration) if index % 2 else None
            step = self._step(index, option, path[-1].shapes if path else shapes)
            if isinstance(step, str):
                return step
            path.append(step)
        return path

    def _step(self, index: int, option: Option | None, shapes: Shapes) -> _Step | str:
        """What one step costs, or what it raises."""
        key = (index, option, shapes)
        if key not in self._known:
            state = {name: torch.empty(shape, device="meta") for name, shape in shapes}
            try:
                self._known[key] = on_meta(lambda: self._count(index, option, dict(state)))
            except DoesNotFitError as error:
                self._known[key] = str(error)
            except UserError:
                raise
            except FAILURES as error:
                self._known[key] = first_line(error)
        return self._known[key]

    @torch.no_grad()
    def _count(self, index: int, option: Option | None, state: dict[str, Tensor]) -> _Step:
        program = self._program
        before = max(math.prod(tensor.shape) for tensor in state.values())
        with FlopCounterMode(display=False) as counter:
            if option is None:
                segment = program.segments[index // 2]
                # A traced module that is called, rather than its forward, prints its own code when it fails.
                made = self._segments[index // 2].forward(*(state[name] for name in segment.inputs))
                state |= dict(zip(segment.outputs, made, strict=True))
            else:
                site = program.sites[index // 2]
                state[site.output] = self._sites[index // 2](state[site.input], option)
        live = program.live[index]
        for name in live:
            value = state[name]
            if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != 1:
                raise UserError(
                    f"the network passes {name!r} from one dynamic layer to the next; it is not one row an image"
                )
        shapes = tuple((name, tuple(state[name].shape)) for name in sorted(live))
        widest = max([before] + [math.prod(shape) for _, shape in shapes])
        # One multiply-add is two floating-point operations.
        return _Step(counter.get_total_flops() // 2, shapes, widest)
