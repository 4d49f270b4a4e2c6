from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import dynamic
from dynamic import Configuration, UserError


class TwoConvolutions(nn.Module):
    """3 -> 4 channels, then 4 -> 8 in two groups, then 8 -> 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.b = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.b(torch.relu(self.a(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("stride", "size", "expected"),
    [
        # 16 x 16 image: a makes 16 x 16, b makes 8 x 8 and reads 4 / 2 channels a group.
        ((1, 2), (3, 3), 16 * 16 * 4 * 3 * 9 + 8 * 8 * 8 * 2 * 9 + 8 * 5),
        ((2, 2), (5, 1), 8 * 8 * 4 * 3 * 25 + 4 * 4 * 8 * 2 * 1 + 8 * 5),
        ((3, 4), (3, 3), 6 * 6 * 4 * 3 * 9 + 2 * 2 * 8 * 2 * 9 + 8 * 5),
        # Stride 1/2: a transposed convolution spends its kernel once per input pixel.
        ((1, 0.5), (3, 3), 16 * 16 * 4 * 3 * 9 + 16 * 16 * 8 * 2 * 9 + 8 * 5),
        ((0.5, 2), (3, 3), 16 * 16 * 4 * 3 * 9 + 16 * 16 * 8 * 2 * 9 + 8 * 5),
    ],
)
def test_macs_equal_arithmetic(stride: tuple[float, ...], size: tuple[int, ...], expected: int) -> None:
    network = dynamic.load(TwoConvolutions(), dynamic_layers=["a", "b"])
    assert network.macs(Configuration(stride, (1, 1), size), 16) == expected


def test_dilation_is_free_and_resolution_may_be_oblong() -> None:
    network = dynamic.load(TwoConvolutions(), dynamic_layers=["a", "b"])
    assert network.macs(Configuration((1, 2), (5, 3), (3, 3)), (8, 16)) == 8 * 16 * 4 * 3 * 9 + 4 * 8 * 8 * 2 * 9 + 8 * 5


def test_shared_counts_every_prefix_once() -> None:
    network = dynamic.load(TwoConvolutions(), dynamic_layers=["a", "b"])
    space = [Configuration((1, s), (1, 1), (k, 3)) for s in (1, 2) for k in (1, 3)]
    a = {k: 16 * 16 * 4 * 3 * k * k for k in (1, 3)}
    b = {s: (16 // s) ** 2 * 8 * 2 * 9 for s in (1, 2)}
    expected = sum(a.values()) + len(a) * (sum(b.values()) + 2 * 8 * 5)
    assert network.costs.shared(space, 16) == expected
    assert network.costs.of_space(space, 16).tolist() == [a[c.kernel_size[0]] + b[c.stride[1]] + 40 for c in space]


def test_resnet50_is_4_09_gmacs() -> None:
    network = dynamic.load("resnet50", weights=None)
    # Stem; then per stage: first block's three convolutions and projection, remaining blocks; classifier.
    expected = 112**2 * 64 * 3 * 49 + 2048 * 1000
    for channels, width, side, blocks, first in (
        (64, 64, 56, 3, 1),
        (256, 128, 28, 4, 2),
        (512, 256, 14, 6, 2),
        (1024, 512, 7, 3, 2),
    ):
        before = (side * first) ** 2
        expected += before * channels * width + side**2 * (9 * width**2 + 4 * width**2 + channels * 4 * width)
        expected += (blocks - 1) * side**2 * (2 * 4 * width**2 + 9 * width**2)
    assert network.macs(network.default, 224) == expected == 4_089_184_256


@pytest.mark.slow
def test_prefix_sharing_saves_at_least_what_the_design_measured() -> None:
    network = dynamic.load("resnet50", weights=None)
    for name, least in (("dilation", 3.9), ("size", 3.7), ("efficiency", 3.1)):
        space = dynamic.space(name, network)
        assert np.sum(network.costs.of_space(space, 224)) / network.costs.shared(space, 224) > least


def test_a_network_without_a_fitting_resolution_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 2))
    network = dynamic.load(module, dynamic_layers=["0"])
    assert network.macs(network.default, 8) == 8 * 8 * 4 * 27 + 256 * 2
    with pytest.raises(UserError, match="does not fit the network at 9 x 9 pixels"):
        network.macs(network.default, 9)


def test_networks_of_other_precision_cost_the_same() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    macs = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        network = dynamic.DynamicNetwork(copy.deepcopy(module).to(dtype), ["0"])
        macs[dtype] = network.macs(network.default, 8)
    assert set(macs.values()) == {8 * 8 * 4 * 27 + 4 * 2}
