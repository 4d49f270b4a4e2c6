"""Networks on PyTorch's meta device: the shapes of what they compute, without data and without arithmetic."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dynamic.errors import UserError

_Made = TypeVar("_Made")

SIZES = (64, 224, 32, 96, 128, 192, 256, 299, 384, 28, 16, 8)
"""Sides of the images tried, in pixels, until one fits."""

FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, TypeError)
"""What a network raises on images that it is not for."""

COMPUTED = (
    "computed by a hook (weight_norm or spectral_norm): bake it in first, with "
    "torch.nn.utils.remove_weight_norm or remove_spectral_norm"
)
"""What to say of a weight that is no parameter."""


def meta_copy(module: nn.Module) -> Any:
    """A deep copy whose parameters, buffers and other tensors are on the meta device; their data are not copied.

    Raises:
        UserError: a module that cannot be copied, as one whose weight an old ``weight_norm`` computes.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for place, part in module.named_modules():  # tensors that a forward reads and .to() does not move
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise UserError(f"the {name} of {place or type(part).__name__} is {COMPUTED}")
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = torch.empty_like(value, device="meta", requires_grad=False)
    try:
        return copy.deepcopy(module, memo)
    except RuntimeError as error:  # a tensor with a gradient of its own, in a list
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


def fitting_images(meta: nn.Module, resolution: int | None, original: nn.Module) -> Tensor:
    """Images that a network on the meta device takes; ``original`` is that network with its data, if it has any.

    Raises:
        UserError: none of the sizes fits.
    """
    unlike = ""
    for channels, side in image_sizes(meta, resolution):
        images = blank_images(meta, channels, side)
        found = failure(meta, images)
        if found is None:
            return images
        unlike = unlike or found
    raise no_size_fits(original, resolution, unlike)


def failure(network: nn.Module, images: Tensor) -> str | None:
    """The first line of what a network raises on ``images``; None where it runs."""
    try:
        with torch.no_grad():
            on_meta(lambda: network.forward(images))  # a traced module that is called prints its own code when it fails
    except FAILURES as error:
        return first_line(error)
    return None


def on_meta(run: Callable[[], _Made]) -> _Made:
    """What ``run`` gives; where tensors that it makes by itself miss the meta device, they are made there."""
    try:
        return run()
    except FAILURES as error:
        if "device meta" not in str(error):
            raise
    with torch.device("meta"):
        return run()


def no_size_fits(network: nn.Module, resolution: int | None, unlike: str = "") -> UserError:
    """What to say of a network that takes none of the images tried: what it raises on them, or what it gives instead.

    ``unlike`` is what it raises on the meta device alone.
    """
    name, sides = type(network).__name__, SIZES if resolution is None else (resolution, *SIZES)
    failures: dict[int, str] = {}
    for channels, side in image_sizes(network, resolution):
        if side in failures and not _OF_CHANNELS.search(failures[side]):
            continue  # that was no matter of channels
        try:
            with torch.no_grad(), in_mode(network, training=False):
                made = network.forward(blank_images(network, channels, side))
        except FAILURES as error:
            if side not in failures or not _OF_CHANNELS.search(first_line(error)):
                failures[side] = first_line(error)
            continue
        if isinstance(made, Tensor):
            return UserError(f"{name} runs, but not on PyTorch's meta device, where shapes are followed: {unlike}")
        return UserError(f"{name} must return one tensor of logits, not a {type(made).__name__}")
    if len({_INPUT.sub("input", message) for message in failures.values()}) == 1:
        return UserError(f"{name} fails on images of every size: {failures[sides[0]]}")
    tried, asked = ", ".join(map(str, sorted(set(sides)))), resolution or 224
    return UserError(
        f"{name} runs on images of none of {tried} pixels a side (at {asked}: {failures[asked]}): "
        "pass the one it is for as resolution= (of DynamicNetwork), by preprocessing= (of dynamic.load) or as --resolution"
    )


_OF_CHANNELS = re.compile(r"to have \d+ channels")
_INPUT = re.compile(r"input\[[\d, ]*\]")


@contextmanager
def in_mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; afterwards every module's mode is what it was."""
    before = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def first_line(error: Exception) -> str:
    """Of its message, or its kind where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
