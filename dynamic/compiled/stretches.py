"""A network's stretches as graphs: which steps lie on them, and what every step is under its prefix of options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamic.compiled.pieces import GraphBuilder, Piece, export
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
        self._pieces: dict[tuple[str, int], Piece] = {}
        self._glances: dict[tuple[str, int], tuple[Piece, Tensor]] = {}

    def values(self, node: int) -> dict[str, Tensor]:
        """What is alive at ``node`` for the example images, by name."""
        if node not in self._values:
            state = dict(self._before(node))
            for run, inputs, outputs in self._steps(node):
                state |= dict(zip(outputs, run(*(state[name] for name in inputs)), strict=True))
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
                    piece, example = self._look(kind, node)
                    (made,) = builder.add(piece, [state[name] for name in shapes])
                    give(GraphOutput(kind="look", node=node, name=kind, shape=tuple(example.shape[1:])), made)
        if stretch.end in self.tree.leaves:
            name = program.output
            give(GraphOutput(kind="logits", node=stretch.end, name="", shape=shapes[name]), state[name])
        return builder, inputs, tuple(outputs)

    def expected(self, output: GraphOutput) -> Tensor:
        """What a stretch should give for the example images."""
        if output.kind == "look":
            return self._look(output.name, output.node)[1]
        return self.logits(output.node) if output.kind == "logits" else self.values(output.node)[output.name]

    def _depth(self, node: int) -> int:
        return len(self._prefixes[node])

    def _before(self, node: int) -> dict[str, Tensor]:
        way = self.tree.path(node)
        return self.values(way[-2]) if len(way) > 1 else {self._network.program.input: self.images}

    def _steps(self, node: int) -> list[tuple[Callable[..., Sequence[Tensor]], tuple[str, ...], tuple[str, ...]]]:
        """What runs between the node before and this one, with the names of what it reads and makes."""
        program, prefix, depth = self._network.program, self._prefixes[node], self._depth(node)
        steps: list[tuple[Callable[..., Sequence[Tensor]], tuple[str, ...], tuple[str, ...]]] = []
        if depth:
            site, option = program.sites[depth - 1], prefix[-1]
            steps.append((lambda x: [site.module(x, option)], (site.input,), (site.output,)))
        segment = program.segments[depth]
        norms = self._network.norms
        extra = [] if norms is None else [_Normalised(norms.factors(depth, prefix))]
        steps.append((lambda *values: segment.module(*values, *extra), segment.inputs, segment.outputs))
        return steps

    def _through(self, builder: GraphBuilder, node: int, state: dict[str, str]) -> dict[str, str]:
        examples = dict(self._before(node))
        for position, (run, inputs, outputs) in enumerate(self._steps(node)):
            reads = [examples[name] for name in inputs]
            key = (f"step {position}", node)
            if outputs:
                if key not in self._pieces:
                    self._pieces[key] = export(run, reads, f"what layer {position} of {node} computes")
                state = state | dict(zip(outputs, builder.add(self._pieces[key], [state[n] for n in inputs]), strict=True))
                if position == 0:
                    examples |= dict(zip(outputs, run(*reads), strict=True))
        return state

    def _look(self, kind: str, node: int) -> tuple[Piece, Tensor]:
        if (kind, node) not in self._glances:
            values, look = list(self.values(node).values()), self._looks[kind]
            piece = export(lambda *values: [look(values)], values, f"the look {kind!r}")
            self._glances[kind, node] = piece, look(values)
        return self._glances[kind, node]


class _Normalised:
    """Batch norms of one prefix, as operations that runtimes fold into the convolutions before them."""

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._factors = factors

    def normalise(self, x: Tensor, index: int) -> Tensor:
        """See :class:`dynamic.walk.Norms`."""
        scale, shift = self._factors[index]
        return F.batch_norm(x, torch.zeros_like(shift), torch.ones_like(scale), scale, shift, eps=0.0)
