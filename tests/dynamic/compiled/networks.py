"""Tiny networks of every family, compiled, beside the eager ones that they must equal."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dynamic import Configuration, DynamicNetwork
from dynamic.compiled.compiling import compile_network
from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.needs import Look, Needs
from dynamic.recalibration import recalibrate

SIDE = 32


def pooled(values: list[Tensor]) -> Tensor:
    """Means over space, side by side."""
    return torch.cat([value.flatten(2).mean(2) if value.ndim > 2 else value for value in values], dim=1)


LOOKS = {"pooled": pooled}


class Residual(nn.Module):
    """Two blocks with projections, as ResNets have them; grouped as ResNeXts where ``groups`` is not 1."""

    def __init__(self, channels: int = 3, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.a, self.b = _Block(8, 16, groups), _Block(16, 16, groups)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(self.stem(x))).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(before, after, 3, 2, 1, groups=groups, bias=False), nn.BatchNorm2d(after)
        self.project = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(x)) + self.project(x))


class Dense(nn.Module):
    """Pre-activation, concatenation and a pooling transition, as DenseNets have them: norms that no convolution precedes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.norm0, self.conv0 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1)
        self.norm1, self.conv1, self.pool = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2, 2)
        self.conv2, self.head = nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv0(torch.relu(self.norm0(x)))], 1)
        x = self.pool(self.conv1(torch.relu(self.norm1(x))))
        return self.head(torch.flatten(torch.relu(self.conv2(x)).mean((2, 3)), 1))


class Inverted(nn.Module):
    """Depth-wise convolutions, squeeze and excitation, hard activations, as mobile networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.deeper = nn.Sequential(nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.deep(x)
        x = x + y * self.gate(y)
        return self.head(self.deeper(x).mean((2, 3)))


class Fire(nn.Module):
    """Max pools, branches that are joined, a convolution as the head, as SqueezeNets have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.squeeze, self.one, self.three = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(self.pool(torch.relu(self.stem(x)))))
        x = torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)
        return torch.flatten(nn.functional.adaptive_avg_pool2d(torch.relu(self.head(x)), 1), 1)


FAMILIES = {
    "residual": (Residual, ["a.conv", "b.conv"]),
    "grouped": (lambda: Residual(groups=4), ["a.conv", "b.conv"]),
    "one channel": (lambda: Residual(channels=1), ["a.conv", "b.conv"]),
    "dense": (Dense, ["conv0", "pool+conv2"]),
    "inverted": (Inverted, ["deep.0", "deeper.0"]),
    "fire": (Fire, ["pool", "three"]),
    "picture": (Residual, ["stem.0", "b.conv"]),
    "recalibrated": (Residual, ["a.conv", "b.conv"]),
    "recalibrated dense": (Dense, ["conv0", "pool+conv2"]),
}


@dataclass(frozen=True)
class Compiled:
    """A network both ways."""

    eager: DynamicNetwork
    compiled: CompiledNetwork
    configurations: tuple[Configuration, ...]
    needs: Needs


def portfolio(network: DynamicNetwork) -> tuple[Configuration, ...]:
    """A few configurations that fork at every layer, half strides, dilations and kernel sizes among them."""
    default = network.default
    built = default.stride[0]
    candidates = [
        default,
        default.changed({"stride": (built, 0.5)}),
        default.changed({"kernel_size": (1, 5)}),
        default.changed({"kernel_size": (default.kernel_size[0], 5), "dilation": (1, 2)}),
        default.changed({"dilation": (2, 1)}),
        *(default.changed({"stride": strides}) for strides in ((built, 9), (3, 0.5), (3, 2), (0.5, 3))),
    ]
    fitting = [c for c in candidates if network.objection(c) is None and network.costs.failure(c, SIDE) is None]
    return tuple(dict.fromkeys(fitting))


def needs_of(network: DynamicNetwork, configurations: tuple[Configuration, ...]) -> Needs:
    """A ladder of three, one of two, and looks at both layers."""
    first, second, third = configurations[-1], configurations[1], configurations[0]
    looks = [Look(kind="pooled", layer=layer, configuration=c) for layer in (0, 1) for c in configurations[:3]]
    return Needs(ladders=((first, second, third), (second, first)), looks=tuple(looks))


@functools.cache
def family(name: str) -> Compiled:
    """One of :data:`FAMILIES` with random weights and batch norms."""
    torch.manual_seed(0)
    make, layers = FAMILIES[name]
    original = make()
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    channels = next(module.in_channels for module in original.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        original.train()(torch.randn(16, channels, SIDE, SIDE))
    network = DynamicNetwork(original, layers, resolution=SIDE)
    configurations = portfolio(network)
    statistics = None
    if name.startswith("recalibrated"):
        statistics = recalibrate(network, torch.randn(16, channels, SIDE, SIDE), configurations)
    fast = network.for_inference(statistics=statistics)
    needs = needs_of(fast, configurations)
    folder = Path(tempfile.mkdtemp()) / "float32"
    compiled = compile_network(fast, folder, configurations=configurations, resolution=SIDE, needs=needs, looks=LOOKS)
    return Compiled(fast, compiled, configurations, needs)


def images(compiled: CompiledNetwork, count: int, seed: int = 0) -> np.ndarray:
    """Random ones."""
    shape = (count, compiled.channels, compiled.resolution, compiled.resolution)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
