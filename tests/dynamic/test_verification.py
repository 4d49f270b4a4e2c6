from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynamic import DynamicNetwork, UserError
from dynamic.verification import verify


class Small(nn.Module):
    """A convolution, perhaps a fixed number of pixels, and what subclasses do at the end."""

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1) if side is None else nn.Identity()
        self.head = nn.Linear(4 * (side or 1) ** 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.conv(x)), 1))


def test_nan_is_no_agreement() -> None:
    network = Small().eval()
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="the traced Small does not compute what the original does"):
            verify(network, lambda images, wrong=wrong: network(images) * wrong)
        with pytest.raises(UserError, match="does not compute"):  # in a single logit
            verify(
                network, lambda images, wrong=wrong: torch.cat([network(images)[:, :4], network(images)[:, 4:] * wrong], 1)
            )
    verify(network, network)


class Divides(Small):
    """Its last logit is NaN, and infinite on the second image."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.cat([logits[:, :3], torch.zeros_like(logits[:, :1]) / 0, torch.ones_like(logits[:, :1]) / 0], dim=1)


def test_where_the_original_is_not_finite_the_trace_must_be_so_too() -> None:
    network = Divides().eval()
    DynamicNetwork(network, ["conv"])
    with pytest.raises(UserError, match="does not compute"):
        verify(network, lambda images: network(images).nan_to_num())


def test_a_network_of_nan_is_refused() -> None:
    network = Small()
    nn.init.constant_(network.conv.weight, float("nan"))
    with pytest.raises(UserError, match="Small answers random images with nothing but infinities and NaN"):
        DynamicNetwork(network, ["conv"])


class Overflows(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 1e19 * 1e19)


def test_smaller_inputs_are_tried_where_large_ones_overflow() -> None:
    network = Overflows().eval()
    nn.init.ones_(network.conv.weight)
    nn.init.ones_(network.head.weight)
    with pytest.raises(UserError, match="does not compute"):
        verify(network, lambda images: network(images) * 2)


@pytest.mark.parametrize("side", [8, 16, 28, 32, 96, 128, 192, 256, 299])
def test_other_sizes_are_tried(side: int) -> None:
    network = Small(side).eval()
    with torch.no_grad():
        assert DynamicNetwork(network, ["conv"])
        with pytest.raises(UserError, match="does not compute"):
            verify(network, lambda images: network(images) + 1)


def test_where_no_size_fits_it_says_so_and_takes_one() -> None:
    with pytest.raises(UserError, match=r"Small runs on images of none of 8, 16, .* pass the one it is for as resolution="):
        DynamicNetwork(Small(40), ["conv"])
    DynamicNetwork(Small(40), ["conv"], resolution=40)
    network = Small(40).eval()
    with pytest.raises(UserError, match="does not compute"):
        verify(network, lambda images: network(images) + 1, 40)
    with pytest.raises(UserError, match=r"none of 8, 16, .* 41, 64"):
        DynamicNetwork(Small(40), ["conv"], resolution=41)


class FirstStepInPlace(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


def test_a_network_that_writes_into_its_images_is_compared_on_fresh_ones() -> None:
    network = DynamicNetwork(FirstStepInPlace(), ["conv"])
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images, network.default), network.original(images.clone()))


def test_a_trace_that_fails_is_a_users_error() -> None:
    def fails(images: Tensor) -> Tensor:
        raise RuntimeError("shapes\nand more")

    with pytest.raises(UserError, match=r"the traced Small fails where the original runs: shapes$"):
        verify(Small().eval(), fails)


def test_networks_without_data_are_let_through() -> None:
    asked = []
    verify(Small().to("meta").eval(), asked.append)  # type: ignore[arg-type]
    assert asked == []
    with pytest.raises(UserError):  # with data the same trace is compared, and refused
        verify(Small().eval(), lambda images: images)
