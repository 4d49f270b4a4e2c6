"""Kernel size: the built kernel interpolated to another side (paper, section 3.2)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from dynamic.attributes.attribute import Attribute, Kernel, side

if TYPE_CHECKING:
    from torch import Tensor

KERNEL_SIZES = (1, 3, 5, 7, 9)


def interpolated(weight: Tensor, size: float) -> Kernel:
    """The kernel at ``size`` x ``size``, bilinearly; more taps sum to more, which the output's factor takes back.

    >>> import torch
    >>> interpolated(torch.ones(1, 1, 3, 3), 5).scale
    0.36
    """
    import torch.nn.functional as F  # here, so that configurations can be read without PyTorch

    native, size = weight.shape[-1], int(size)
    return Kernel(F.interpolate(weight, size=(size, size), mode="bilinear"), native**2 / size**2)


ATTRIBUTE = Attribute(
    name="kernel_size",
    letter="k",
    word="size",
    order=2,
    right="1, 2, 3, …",
    valid=lambda option: option >= 1 and float(option).is_integer(),
    built=lambda module: side(module.kernel_size),  # type: ignore[arg-type]
    kernel=interpolated,
    spaces={
        "size": lambda layers: list(itertools.product(KERNEL_SIZES, repeat=layers)),
        "efficiency": lambda layers: list(itertools.product((1, 3), repeat=layers)),
    },
)
