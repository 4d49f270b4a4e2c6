"""The check that a traced network computes what its original does, on a few random images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.shapes import FAILURES, fitting_images, image_sizes, no_size_fits


class Fit(NamedTuple):
    """Images that a network takes: how many channels, and their side in pixels."""

    channels: int
    side: int


def verify(original: nn.Module, traced: Callable[[Tensor], Tensor], resolution: int | None = None) -> Fit:
    """Refuse a traced network that computes something else, rather than run it wrongly.

    Networks without data (on the meta device) cannot be compared and are let through.

    Args:
        original: in eval mode.
        traced: maps images (N, C, H, W) to what ``original`` should make of them.
        resolution: side of the images to try first; see :func:`dynamic.shapes.image_sizes`.

    Returns:
        The images that it was tried on.

    Raises:
        UserError: the two differ, or no size fits, or the original answers nothing but infinities and NaN, or at random, or
            its answer for an image depends on the others of the batch (the walk puts together what it never saw together).
    """
    reference = next(chain(original.parameters(), original.buffers()), torch.zeros(0))
    if reference.is_meta:
        return Fit(*fitting_images(original, resolution, original).shape[1:3])
    name, answered = type(original).__name__, False
    for channels, side in image_sizes(original, resolution):
        for amplitude in (1, 0.01):  # large activations may overflow, in half precision above all
            images = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
            images[1].mul_(2).add_(1)  # large images of the same noise have the same mean: what mixes them would not show
            images = images.mul_(amplitude).to(reference)
            try:
                with torch.no_grad():
                    expected = original(images.clone())
            except FAILURES:
                break  # not its resolution
            answered = True
            if not isinstance(expected, Tensor):
                raise UserError(f"{name} must return one tensor of logits, not a {type(expected).__name__}")
            if expected.isfinite().any():
                _check_random(name, original, images, expected)
                _compare(name, traced, images, expected)
                _check_alone(name, original, images, expected)
                return Fit(channels, side)
    if answered:
        raise UserError(f"{name} answers random images with nothing but infinities and NaN: its weights are damaged")
    raise no_size_fits(original, resolution)


def _compare(name: str, traced: Callable[[Tensor], Tensor], images: Tensor, expected: Tensor) -> None:
    try:
        with torch.no_grad():
            got = traced(images)
    except FAILURES as error:
        raise UserError(f"the traced {name} fails where the original runs: {str(error).splitlines()[0]}") from error
    finite = expected.isfinite()
    same = got.shape == expected.shape
    if same:
        largest = expected[finite].abs().max()
        # Written so that a NaN is no agreement.
        same = bool(((got - expected)[finite].abs() <= 1e-5 * largest).all())
        same = same and torch.allclose(got[~finite], expected[~finite], equal_nan=True)
    if not same:
        raise UserError(
            f"the traced {name} does not compute what the original does: "
            "it writes into a tensor that it reads elsewhere, or keeps something from call to call; "
            "write such steps out of place"
        )


def _check_random(name: str, original: nn.Module, images: Tensor, expected: Tensor) -> None:
    with torch.no_grad():
        again = original(images.clone())
    finite = expected.isfinite()
    if not bool(((again - expected)[finite].abs() <= 1e-5 * expected[finite].abs().max()).all()):
        raise UserError(
            f"{name} answers the same images differently each time: "
            "something random, such as dropout, stays on in evaluation; switch it off there"
        )


def _check_alone(name: str, original: nn.Module, images: Tensor, expected: Tensor) -> None:
    if images.dtype not in (torch.float32, torch.float64):
        return  # too coarse to tell rounding from dependence
    finite = expected[:1].isfinite()
    try:
        with torch.no_grad():
            alone = original(images[:1].clone())
        same = bool(((alone - expected[:1])[finite].abs() <= 1e-2 * expected[:1][finite].abs().max()).all())
    except FAILURES:
        same = False
    if finite.any() and not same:
        raise UserError(
            f"{name} answers an image otherwise when others are beside it: "
            "give its batch norms running statistics, and let nothing else reach across a batch"
        )
