"""What policies will ask of a compiled network, so that the right stretches are made."""

from __future__ import annotations

from dataclasses import dataclass

from dynamic.configuration import Configuration


@dataclass(frozen=True, kw_only=True)
class Look:
    """A small tensor that policies see before they choose.

    Attributes:
        kind: key of the function that makes it.
        layer: dynamic layer, 0 for A, whose inputs are looked at.
        configuration: under which they were made.
    """

    kind: str
    layer: int
    configuration: Configuration


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Everything beside whole answers. An answer that is asked without being needed here costs time, never correctness; a
    look that is not named here is refused.

    Attributes:
        ladders: configurations that one image may run one after the other, in this order.
        looks: at what layers read.
    """

    ladders: tuple[tuple[Configuration, ...], ...] = ()
    looks: tuple[Look, ...] = ()
