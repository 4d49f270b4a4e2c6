"""A network's stretches as graphs: which steps lie on them, and what every step is under its prefix of options."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamic.compiled.pieces import LOOK, GraphBuilder, Piece, export
from dynamic.compiled.plan import Stretch, Tree
from dynamic.compiled.record import GraphOutput
from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from dynamic.option import Option

Looks = Mapping[str, Callable[..., Tensor]]
"""By kind, what makes a look (N, ...): of a list of values in order of their names."""


class StretchMaker:
    """Puts stretches together.

    Args:
        network: unpacked, float32 on a CPU, with its statistics.
        configurations: the portfolio.
        images: (N, C, H, W) examples of the size that the graphs are for.
        looks: by kind.
    """

    def __init__(
        self, network: DynamicNetwork, configurations: Sequence[Configuration], images: Tensor, looks: Looks
    ) -> None:
        self._network, self.images, self._looks = network, images, looks
        sites = network.program.sites
        options = [[site.option(configuration) for site in sites] for configuration in configurations]
        self.tree = Tree.of(options)
        self._prefixes: dict[int, tuple[Option, ...]] = {}
        for path, chosen in zip(self.tree.paths, options, strict=True):
            for depth, node in enumerate(path):
                self._prefixes[node] = tuple(chosen[:depth])
        self._values: dict[int, dict[str, Tensor]] = {}
        self._reads: dict[int, list[list[Tensor]]] = {}
        # What a piece computes depends on nothing else than its step, its option and the shapes of what it reads.
        self._pieces: dict[tuple[object, ...], Piece] = {}
        self._factors: dict[int, list[np.ndarray]] = {}

    @property
    def bare(self) -> tuple[int, ...]:
        """The node before the first site, where nothing is computed before it; else none."""
        root = self.tree.paths[0][0]
        return (root,) if list(self.values(root)) == [self._network.program.input] else ()

    def values(self, node: int) -> dict[str, Tensor]:
        """What is alive at ``node`` for the example images, by name."""
        if node not in self._values:
            state = dict(self._before(node))
            self._reads[node] = []
            for step in self._steps(node):
                reads = [state[name] for name in step.inputs]
                self._reads[node].append(reads)
                state |= dict(zip(step.outputs, step.run(*reads, *step.factors), strict=True))
            self._values[node] = {name: state[name] for name in sorted(self._network.program.live[2 * self._depth(node)])}
        return self._values[node]

    def logits(self, leaf: int) -> Tensor:
        """(N, classes) of the example images."""
        return self.values(leaf)[self._network.program.output]

    def graph(self, stretch: Stretch) -> tuple[GraphBuilder, tuple[str, ...], tuple[GraphOutput, ...]]:
        """A stretch's graph, the names of the values that it reads, and what it gives."""
        builder, program = GraphBuilder(), self._network.program
        way = self.tree.path(stretch.end)
        if stretch.start is None:
            state = {program.input: builder.input("images", self.images.shape[1:])}
            inputs: tuple[str, ...] = ("images",)
        else:
            way = way[way.index(stretch.start) + 1 :]
            held = self.values(stretch.start)
            inputs = tuple(held)
            state = {name: builder.input(name, value.shape[1:]) for name, value in held.items()}
        outputs: list[GraphOutput] = []

        def give(output: GraphOutput, value: str) -> None:
            builder.output(value, f"output{len(outputs)}", output.shape)
            outputs.append(output)

        for node in way:
            state = self._through(builder, node, state)
            shapes = {name: tuple(value.shape[1:]) for name, value in self.values(node).items()}
            if node in stretch.emits:
                for name in shapes:
                    give(GraphOutput(kind="values", node=node, name=name, shape=shapes[name]), state[name])
            for kind, looked in stretch.looks:
                if looked == node:
                    (made,) = builder.add(self._look(kind, node), [state[name] for name in shapes], label=LOOK)
                    shape = tuple(self._looked(kind, node).shape[1:])
                    give(GraphOutput(kind="look", node=node, name=kind, shape=shape), made)
        if stretch.end in self.tree.leaves:
            name = program.output
            give(GraphOutput(kind="logits", node=stretch.end, name="", shape=shapes[name]), state[name])
        return builder, inputs, tuple(outputs)

    def expected(self, output: GraphOutput) -> Tensor:
        """What a stretch should give for the example images."""
        if output.kind == "look":
            return self._looked(output.name, output.node)
        return self.logits(output.node) if output.kind == "logits" else self.values(output.node)[output.name]

    def _depth(self, node: int) -> int:
        return len(self._prefixes[node])

    def _before(self, node: int) -> dict[str, Tensor]:
        way = self.tree.path(node)
        return self.values(way[-2]) if len(way) > 1 else {self._network.program.input: self.images}

    def _steps(self, node: int) -> list[_Step]:
        """What runs between the node before and this one."""
        program, prefix, depth = self._network.program, self._prefixes[node], self._depth(node)
        steps = []
        if depth:
            site, option = program.sites[depth - 1], prefix[-1]
            steps.append(
                _Step((site.name, option), lambda x: [site.module(x, option)], (site.input,), (site.output,), site.name)
            )
        segment, norms = program.segments[depth], self._network.norms
        factors = () if norms is None else tuple(itertools.chain(*norms.factors(depth, prefix)))

        def run(*values: Tensor) -> Sequence[Tensor]:
            if norms is None:
                return segment.module(*values)
            count = len(segment.inputs)
            return segment.module(*values[:count], _Normalised(values[count:]))

        if segment.outputs:
            what = f"what follows {program.sites[depth - 1].name}" if depth else "what comes before the dynamic layers"
            steps.append(_Step((depth,), run, segment.inputs, segment.outputs, what, factors))
        return steps

    def _through(self, builder: GraphBuilder, node: int, state: dict[str, str]) -> dict[str, str]:
        """Append the steps to ``node``; ``state`` has the names of the values before it, the result those after it."""
        self.values(node)
        for step, reads in zip(self._steps(node), self._reads[node], strict=True):
            piece = self._piece(step.key, step.run, reads, step.what, step.factors)
            made = builder.add(piece, [state[name] for name in step.inputs], self._arrays(node, step))
            state = state | dict(zip(step.outputs, made, strict=True))
        return state

    def _arrays(self, node: int, step: _Step) -> list[np.ndarray]:
        """A step's factors, the same objects whenever they are asked for."""
        if not step.factors:
            return []
        return self._factors.setdefault(node, [factor.numpy() for factor in step.factors])

    def _piece(
        self,
        key: tuple[object, ...],
        run: Callable[..., Sequence[Tensor]],
        reads: Sequence[Tensor],
        what: str,
        factors: Sequence[Tensor] = (),
    ) -> Piece:
        known = (*key, *(tuple(value.shape) for value in reads))
        if known not in self._pieces:
            self._pieces[known] = export(run, reads, what, factors)
        return self._pieces[known]

    def _look(self, kind: str, node: int) -> Piece:
        look = self._looks[kind]
        return self._piece((kind,), lambda *values: [look(values)], list(self.values(node).values()), f"the look {kind!r}")

    def _looked(self, kind: str, node: int) -> Tensor:
        return self._looks[kind](list(self.values(node).values()))


class _Step(NamedTuple):
    """A site or a segment: what it computes of the values ``inputs`` and of ``factors``."""

    key: tuple[object, ...]
    run: Callable[..., Sequence[Tensor]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    what: str
    factors: tuple[Tensor, ...] = ()


class _Normalised:
    """Batch norms of one prefix, as operations that runtimes fold into the convolutions before them."""

    def __init__(self, factors: Sequence[Tensor]) -> None:
        self._factors = factors

    def normalise(self, x: Tensor, index: int) -> Tensor:
        """See :class:`dynamic.walk.Norms`."""
        scale, shift = self._factors[2 * index : 2 * index + 2]
        return F.batch_norm(x, torch.zeros_like(shift), torch.ones_like(scale), scale, shift, eps=0.0)
