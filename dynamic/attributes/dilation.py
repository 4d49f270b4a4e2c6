"""Dilation: the distance of a kernel's taps."""

from __future__ import annotations

import itertools

from dynamic.attributes.attribute import Attribute, side

DILATIONS = (1, 2, 3, 4, 5)

ATTRIBUTE = Attribute(
    name="dilation",
    letter="d",
    order=1,
    right="1, 2, 3, …",
    valid=lambda option: option >= 1 and float(option).is_integer(),
    built=lambda module: side(getattr(module, "dilation", 1)),
    call=lambda call, option: call._replace(dilation=int(option)),
    spaces={"dilation": lambda layers: list(itertools.product(DILATIONS, repeat=layers))},
)
