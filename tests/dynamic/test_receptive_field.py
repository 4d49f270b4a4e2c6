from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import dynamic
from dynamic import Configuration, DynamicNetwork
from dynamic.receptive_field import receptive_fields


def test_resnet50_by_hand() -> None:
    network = dynamic.load("resnet50", weights=None)
    # Stem: 7, then a pool of 3 at step 2 -> 11, step 4. Stage 1: three 3 x 3 at step 4 -> 11 + 3 * 8.
    # Stage 2: one at step 4, three at step 8 -> 35 + 8 + 48. And so on.
    assert receptive_fields(network, network.default) == [35, 91, 267, 427]
    # D = 1/2: gaps halve the step of 16 to 8 before its kernel, and nothing doubles it after: 267 + 3 * 16.
    half = dataclasses.replace(network.default, stride=(1, 2, 2, 0.5))
    assert receptive_fields(network, half) == [35, 91, 267, 315]
    wide = dataclasses.replace(network.default, dilation=(1, 1, 1, 3), kernel_size=(3, 3, 3, 5))
    # D's 3 x 3 added 2 * 16; a 5 x 5 dilated three times adds 4 * 3 * 16.
    assert receptive_fields(network, wide)[3] == 427 - 32 + 192


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.first = nn.Conv2d(2, 2, 3, 2, padding=1, bias=False)
        self.second = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        for module in (self.stem, self.first, self.second):
            nn.init.ones_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.stem(x)))


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration((2, 1), (1, 1), (3, 3)),
        Configuration((3, 1), (2, 1), (3, 5)),
        Configuration((1, 2), (1, 3), (5, 3)),
    ],
)
def test_it_is_what_gradients_reach(configuration: Configuration) -> None:
    network = DynamicNetwork(Tower(), ["first", "second"])
    images = torch.ones(1, 3, 121, 121, requires_grad=True)
    maps = network(images, configuration)
    middle = maps.shape[2] // 2
    maps[0, 0, middle, middle].backward()
    assert images.grad is not None
    reached = images.grad[0, 0].abs().sum(dim=0).nonzero().flatten()
    assert receptive_fields(network, configuration)[-1] == reached[-1] - reached[0] + 1
