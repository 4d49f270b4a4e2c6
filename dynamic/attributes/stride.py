"""Stride: the distance of windows; at 1/2 the pixels are spread first, with gaps between them."""

from __future__ import annotations

import itertools

from dynamic.attributes.attribute import Attribute, Call, side

STRIDES = (1, 2, 3, 4)
STRIDES_FROM_C = (0.5, *STRIDES)
"""Layers A and B never run at stride 1/2 (paper, section 3.3)."""

# The paper runs 361 of the 400 stride configurations and gives no rule beyond memory. We leave out the 39 that cost most
# MACs on the full ResNet-50 at 224 x 224 (tests/dynamic/test_configuration.py derives them), for every network.
_COSTLIEST_STRIDES = frozenset(
    tuple(map(float, strides.split("-")))
    for strides in """
    1-1-0.5-0.5 1-1-0.5-1 1-1-0.5-2 1-1-0.5-3 1-1-0.5-4 1-1-1-0.5 1-1-1-1 1-1-1-2 1-1-1-3 1-1-1-4 1-1-2-0.5 1-1-2-1
    1-1-3-0.5 1-2-0.5-0.5 1-2-0.5-1 1-2-0.5-2 1-2-0.5-3 1-2-0.5-4 1-2-1-0.5 1-2-1-1 1-3-0.5-0.5 1-3-0.5-1 1-3-1-0.5
    1-4-0.5-0.5 1-4-0.5-1 2-1-0.5-0.5 2-1-0.5-1 2-1-0.5-2 2-1-0.5-3 2-1-0.5-4 2-1-1-0.5 2-1-1-1 2-2-0.5-0.5
    2-3-0.5-0.5 3-1-0.5-0.5 3-1-0.5-1 3-1-1-0.5 3-2-0.5-0.5 4-1-0.5-0.5
    """.split()
)


def _every(layers: int) -> list[tuple[float, ...]]:
    return list(itertools.product(*[STRIDES if layer < 2 else STRIDES_FROM_C for layer in range(layers)]))


def _called(call: Call, option: float) -> Call:
    return call._replace(gaps=True) if option == 0.5 else call._replace(stride=int(option))


ATTRIBUTE = Attribute(
    name="stride",
    letter="s",
    order=0,
    fractions=True,
    right="0.5 or 1, 2, 3, …",
    valid=lambda option: option == 0.5 or (option >= 1 and float(option).is_integer()),
    built=lambda module: side(module.stride),  # type: ignore[arg-type]
    taken_by=frozenset({"convolution", "pool", "follower"}),
    call=_called,
    spaces={
        "stride": lambda layers: [options for options in _every(layers) if options not in _COSTLIEST_STRIDES],
        "stride-all": _every,
        "efficiency": lambda layers: list(itertools.product(STRIDES, repeat=layers)),
    },
)
