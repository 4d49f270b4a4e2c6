"""Which stretches of a portfolio's tree of options are made. Pure: nodes are numbers, nothing is run.

A cut in a path costs time, since maps leave the layout in which a runtime keeps them. So a path is cut only where somebody
looks before going on, and where one image runs two configurations the first emits what the second goes on from.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

Glance = tuple[str, int]
"""A look: its kind and its node."""


@dataclass(frozen=True)
class Tree:
    """The prefixes of a portfolio, numbered in the order in which they are met.

    Attributes:
        paths: of each configuration, the node before the first site, behind the first, and so on; the last is its *leaf*.

    >>> Tree.of([["a", "b"], ["a", "c"]]).paths
    ((0, 1, 2), (0, 1, 3))
    """

    paths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, options: Iterable[Sequence[Hashable]]) -> Tree:
        """From each configuration's options, site by site."""
        known: dict[tuple[Hashable, ...], int] = {}
        paths = []
        for chosen in options:
            prefixes = [tuple(chosen[:depth]) for depth in range(len(chosen) + 1)]
            paths.append(tuple(known.setdefault(prefix, len(known)) for prefix in prefixes))
        return cls(tuple(paths))

    @property
    def leaves(self) -> tuple[int, ...]:
        """Every configuration's last node, each once."""
        return tuple(dict.fromkeys(path[-1] for path in self.paths))

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes on the way to ``node``, itself last."""
        for path in self.paths:
            if node in path:
                return path[: path.index(node) + 1]
        raise KeyError(node)

    def meet(self, one: int, other: int) -> int:
        """The last node that the ways to two nodes share."""
        return max(set(self.path(one)) & set(self.path(other)), key=lambda node: len(self.path(node)))


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """One static graph.

    Attributes:
        start: the node whose values it reads, None for the images.
        end: the node that it runs to; a leaf's value is the logits, which are always given.
        emits: nodes whose values are given, in the order of the path.
        looks: that are given.
    """

    start: int | None
    end: int
    emits: tuple[int, ...] = ()
    looks: tuple[Glance, ...] = ()


def plan(
    tree: Tree, ladders: Iterable[Sequence[int]] = (), looks: Iterable[Glance] = (), bare: Iterable[int] = ()
) -> tuple[Stretch, ...]:
    """The stretches that answer every question without running anything twice.

    Args:
        tree: of the portfolio.
        ladders: leaves that one image may run one after the other.
        looks: that policies may ask for before they choose among all configurations.
        bare: nodes at which the images are all there is: nothing is emitted there, who goes on begins at the images.

    Each leaf has a stretch from the images that emits nothing, for who runs it and nothing else, and one that emits where
    others of its ladders part from it.
    """
    looks = tuple(dict.fromkeys(looks))
    bare, seen = frozenset(bare), tuple(dict.fromkeys(node for _, node in looks))
    emitted = {leaf: _forks(tree, leaf, ladders) for leaf in tree.leaves}
    emitted |= {node: {node} | {tree.meet(node, leaf) for leaf in tree.leaves} for node in seen if node not in emitted}
    emitted = {end: nodes - bare for end, nodes in emitted.items()}
    held = set().union(*emitted.values())
    made: list[Stretch] = [Stretch(start=None, end=leaf) for leaf in tree.leaves]
    for end in emitted:
        way = tree.path(end)
        for start in (None, *(node for node in way[:-1] if node in held)):
            beyond = way if start is None else way[way.index(start) + 1 :]
            emits = tuple(node for node in beyond if node in emitted[end])
            shown = tuple(look for look in looks if look[1] in beyond) if end in seen else ()
            made.append(Stretch(start=start, end=end, emits=emits, looks=shown))
    return tuple(dict.fromkeys(made))


def _forks(tree: Tree, leaf: int, ladders: Iterable[Sequence[int]]) -> set[int]:
    """Where those that may follow ``leaf`` part from it."""
    after = {later for ladder in ladders if leaf in ladder for later in ladder[list(ladder).index(leaf) + 1 :]}
    return {tree.meet(leaf, other) for other in after - {leaf}}
