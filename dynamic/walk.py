"""The engine: one walk over the tree of options that shares every common prefix and follows only the branches wanted.

Two plans, one walk. A *comprehensive* plan wants every image under every configuration (the oracle); a *mixed* plan wants
each image under its own (the service). At a site the rows of a batch part by option; options that leave feature maps of the
same shape (all but strides) are joined again into one batch for the segment that follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.option import Option
from dynamic.tracing import Program


@dataclass
class Node:
    """Images that share the options of all sites so far.

    Attributes:
        images: positions in the batch, (rows,) int64.
        prefix: the options of all sites so far.
        children: by option of the next site: which of this node's rows take it (None: all), and the node they form.
        columns: at the end of a path, the positions of the configurations that it stands for.
    """

    images: Tensor
    prefix: tuple[Option, ...] = ()
    children: dict[Option, tuple[Tensor | None, Node]] = field(default_factory=dict)
    columns: list[int] = field(default_factory=list)


def comprehensive_plan(program: Program, configurations: Sequence[Configuration], images: int) -> Node:
    """Every one of ``images`` images under every configuration."""
    root = Node(torch.arange(images))
    for column, configuration in enumerate(configurations):
        node = root
        for site in program.sites:
            option = site.option(configuration)
            if option not in node.children:
                node.children[option] = (None, Node(root.images, (*node.prefix, option)))
            _, node = node.children[option]
        node.columns.append(column)
    return root


def mixed_plan(program: Program, configurations: Sequence[Configuration]) -> Node:
    """Image i under ``configurations[i]``."""
    chosen = {configuration: [site.option(configuration) for site in program.sites] for configuration in set(configurations)}
    root = Node(torch.arange(len(configurations)), columns=[0])
    level = [root]
    for depth in range(len(program.sites)):
        following = []
        for node in level:
            takers: dict[Option, list[int]] = {}
            for row, image in enumerate(node.images.tolist()):
                takers.setdefault(chosen[configurations[image]][depth], []).append(row)
            for option, rows in takers.items():
                index = None if len(takers) == 1 else torch.tensor(rows)
                child = Node(node.images if index is None else node.images[index], (*node.prefix, option), columns=[0])
                node.children[option] = (index, child)
                following.append(child)
        level = following
    return root


class Normaliser(Protocol):
    """Does the work of one segment's batch norms for the rows at hand."""

    def normalise(self, x: Tensor, index: int) -> Tensor:
        """Normalise ``x`` (rows, C, H, W) as the segment's batch norm ``index`` is to."""
        ...


class Norms(Protocol):
    """Batch norms that depend on the prefix of options; see :mod:`dynamic.norms`."""

    def at(self, segment: int, nodes: Sequence[Node]) -> Normaliser:
        """For a batch whose rows are those of ``nodes`` one after the other."""
        ...


Visit = Callable[[int, Sequence[Node], Mapping[str, Tensor]], None]
"""Called after each segment with its index, the nodes of the batch and the live values; rows are those of the nodes."""


def walkers(count: int) -> ThreadPoolExecutor:
    """Threads for walks side by side: each walk on one core, which on a CPU beats one walk on all of them."""
    return (
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else ThreadPoolExecutor(1)
    )


def walk(
    program: Program,
    images: Tensor,
    plan: Node,
    max_rows: int,
    norms: Norms | None = None,
    visit: Visit | None = None,
) -> Iterator[tuple[Node, Tensor]]:
    """Run ``plan`` and yield each end of a path with its logits (rows, classes), in the order of ``node.images``.

    Args:
        program: the traced network.
        images: (N, C, H, W), on the network's device and of its dtype.
        plan: from :func:`comprehensive_plan` or :func:`mixed_plan`, for N images.
        max_rows: join the branches of a fork into batches of at most this many rows; a single branch is never split.
        norms: of a program traced with batch norms ``by_prefix``.
        visit: see :data:`Visit`.
    """
    yield from _run(program, 0, {program.input: images}, [plan], max(max_rows, 1), norms, visit)


def _run(
    program: Program,
    index: int,
    state: dict[str, Tensor],
    nodes: list[Node],
    max_rows: int,
    norms: Norms | None,
    visit: Visit | None,
) -> Iterator[tuple[Node, Tensor]]:
    """Run segment ``index`` on ``state``, whose rows are those of ``nodes`` one after the other, and all that follows."""
    segment = program.segments[index]
    made = segment.module(*(state[name] for name in segment.inputs), *([norms.at(index, nodes)] if norms else []))
    state = _keep(state | dict(zip(segment.outputs, made, strict=True)), program.live[2 * index])
    del made
    if visit is not None:
        visit(index, nodes, state)
    if index == len(program.sites):
        logits = state[program.output].split([len(node.images) for node in nodes])
        yield from zip(nodes, logits, strict=True)
        return
    site, live = program.sites[index], program.live[2 * index + 1]
    for branches in _batches(nodes, max_rows):
        made_by = [(rows, nodes, site.module(_take(state[site.input], rows), option)) for option, rows, nodes in branches]
        while made_by:
            # Almost always all of them; kernels of even size shift the shape.
            shape = made_by[0][2].shape[1:]
            together = [branch for branch in made_by if branch[2].shape[1:] == shape]
            made_by = [branch for branch in made_by if branch[2].shape[1:] != shape]
            joined = {
                name: _join([_take(state[name], rows) for rows, _, _ in together]) for name in live if name != site.output
            }
            if site.output in live:
                joined[site.output] = _join([output for _, _, output in together])
            followers = [node for _, nodes, _ in together for node in nodes]
            del together
            yield from _run(program, index + 1, joined, followers, max_rows, norms, visit)


_Branch = tuple[Option, Tensor | None, list[Node]]
"""An option, the rows that take it (None: all), and the nodes they form."""


def _batches(nodes: list[Node], max_rows: int) -> list[list[_Branch]]:
    """Group the branches of ``nodes`` by stride into batches of at most ``max_rows`` rows."""
    starts = list(itertools.accumulate((len(node.images) for node in nodes), initial=0))
    batches: list[list[_Branch]] = []
    size, stride = 0, None
    for option in sorted({option for node in nodes for option in node.children}):
        takers = [
            (start, node, *node.children[option])
            for start, node in zip(starts, nodes, strict=False)
            if option in node.children
        ]
        rows = [start + (torch.arange(len(node.images)) if index is None else index) for start, node, index, _ in takers]
        whole = len(takers) == len(nodes) and all(index is None for _, _, index, _ in takers)
        count = sum(map(len, rows))
        if not batches or stride != option.stride or size + count > max_rows:
            batches.append([])
            size, stride = 0, option.stride
        batches[-1].append((option, None if whole else torch.cat(rows), [child for *_, child in takers]))
        size += count
    return batches


def _take(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows.to(tensor.device))


def _join(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _keep(state: dict[str, Tensor], live: frozenset[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name in live}
