"""Networks on PyTorch's meta device: the shapes of what they compute, without data and without arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor, nn

from dynamic.errors import UserError

SIZES = (64, 224, 32, 96, 128, 192, 256, 299, 384, 28, 16, 8)
"""Sides of the images tried, in pixels, until one fits."""

FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, TypeError)
"""What a network raises on images that it is not for."""


def meta_copy(module: nn.Module) -> Any:
    """A deep copy whose parameters and buffers are on the meta device; their data are not copied.

    Raises:
        UserError: a module that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    try:
        return copy.deepcopy(module, memo)
    except RuntimeError as error:  # a tensor with a gradient of its own, as weight_norm leaves one
        raise UserError(f"{type(module).__name__} holds a tensor that cannot be copied: {first_line(error)}") from error


def image_sizes(network: nn.Module, resolution: int | None = None) -> Iterator[tuple[int, int]]:
    """Channels and sides of the images to try with a network, the likeliest first.

    Three channels come first, then what the first convolution reads, then one: a network that takes three may make one of
    them itself. Sides are ``resolution`` and :data:`SIZES`.
    """
    convolutions = [module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    sides = SIZES if resolution is None else (resolution, *SIZES)
    for side, channels in product(dict.fromkeys(sides), dict.fromkeys((3, *convolutions[:1], 1))):
        yield channels, side


def blank_images(network: nn.Module, channels: int, side: int, count: int = 2) -> Tensor:
    """Images (count, channels, side, side) on the network's device and of its dtype, all zero."""
    reference = next((t for t in chain(network.parameters(), network.buffers()) if t.is_floating_point()), torch.zeros(0))
    return torch.zeros(count, channels, side, side, dtype=reference.dtype, device=reference.device)


def fitting_images(network: nn.Module, resolution: int | None = None, name: str = "") -> Tensor:
    """Images that a network on the meta device takes; ``name`` is what messages call it.

    Raises:
        UserError: none of the sizes fits.
    """
    for channels, side in image_sizes(network, resolution):
        images = blank_images(network, channels, side)
        if failure(network, images) is None:
            return images
    raise no_size_fits(name or type(network).__name__, resolution)


def failure(network: nn.Module, images: Tensor) -> str | None:
    """The first line of what a network raises on ``images``; None where it runs."""
    try:
        with torch.no_grad():
            network.forward(images)  # a traced module that is called prints its own code when it fails
    except FAILURES as error:
        return first_line(error)
    return None


def no_size_fits(name: str, resolution: int | None) -> UserError:
    """What to say of a network that takes none of the images tried."""
    tried = ", ".join(map(str, sorted(SIZES if resolution is None else {resolution, *SIZES})))
    return UserError(f"{name} runs on images of none of {tried} pixels a side: pass the one it is for as resolution=")


def first_line(error: Exception) -> str:
    """Of its message, or its kind where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
