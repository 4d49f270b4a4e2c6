"""What a policy may ask of images before it decides: known beforehand, so that compiled networks are made for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynamic.compiled.needs import Look, Needs
from dynamic.configuration import Configuration

GROUPS = ("image", "stem", "prefix", "map")
"""Of features, see :mod:`selector.observation.features`."""

ANSWER = "answer:"
"""Begins a group that is a configuration's answer, by its column or ``default``."""


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What may be asked; columns are positions in the portfolio.

    An answer that is asked without being named here is given all the same by a compiled network, only slower; features and
    stages are refused.

    Attributes:
        groups: of features.
        stages: (layer, column) of what layers read.
        ladders: columns whose answers one image may be asked for one after the other, the one chosen in the end included.
    """

    groups: tuple[str, ...] = ()
    stages: tuple[tuple[int, int], ...] = ()
    ladders: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def everything(cls, columns: int, layers: int) -> Asks:
        """Every feature and stage, and any two answers.

        >>> Asks.everything(2, 1).ladders
        ((0, 1), (1, 0))
        """
        stages = tuple(itertools.product(range(layers), range(columns)))
        return cls(groups=GROUPS, stages=stages, ladders=tuple(itertools.permutations(range(columns), 2)))

    @classmethod
    def of_groups(cls, groups: Sequence[str], columns: int, default: int) -> Asks:
        """Groups as :func:`selector.policies.gathering.gather` takes them, then any one answer.

        >>> Asks.of_groups(["stem", "answer:default"], 3, 0)
        Asks(groups=('stem',), stages=(), ladders=((0, 1), (0, 2)))
        """
        named = [group.removeprefix(ANSWER) for group in groups if group.startswith(ANSWER)]
        looked = [default if name == "default" else int(name) for name in named]
        ladders = [(*looked, column) for column in range(columns) if column not in looked] if looked else []
        return cls(groups=tuple(group for group in groups if not group.startswith(ANSWER)), ladders=tuple(ladders))

    def needs(self, portfolio: Sequence[Configuration], default: int) -> Needs:
        """The same as a compiled network's: looks at layers under configurations."""
        layers = len(portfolio[0].stride)
        first = min(1, layers - 1)
        of_groups = {"stem": [("pooled", 0)], "prefix": [("pooled", 0), ("pooled", first)], "map": [("gridded", first)]}
        looks = [(kind, layer, default) for group in self.groups for kind, layer in of_groups.get(group, [])]
        looks += [("pooled", layer, column) for layer, column in self.stages]
        return Needs(
            ladders=tuple(tuple(portfolio[column] for column in ladder) for ladder in self.ladders),
            looks=tuple(
                Look(kind=kind, layer=layer, configuration=portfolio[column]) for kind, layer, column in dict.fromkeys(looks)
            ),
        )


def joined(asks: Iterable[Asks]) -> Asks:
    """All of them together, each thing once."""
    parts = list(asks)
    return Asks(
        groups=tuple(dict.fromkeys(group for part in parts for group in part.groups)),
        stages=tuple(dict.fromkeys(stage for part in parts for stage in part.stages)),
        ladders=tuple(dict.fromkeys(ladder for part in parts for ladder in part.ladders)),
    )
