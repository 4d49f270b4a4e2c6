"""Small networks drawn at random, wired in the ways that people wire theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

SIDE = 16
CHANNELS = 4

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "function": F.relu,
    "out of place": lambda x: torch.relu(x),
    "keyword in place": lambda x: F.relu(x, inplace=True),
    "positional in place": lambda x: F.relu(x, True),
    "function in place": lambda x: torch.relu_(x),
    "method in place": lambda x: x.relu_(),
    "clamp in place": lambda x: x.clamp_(min=-0.3),
    "smooth": F.silu,
}
JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda x, y: x + y,
    "+=": lambda x, y: x.__iadd__(y) if type(x) is Tensor else x + y,
    "torch.add": torch.add,
    "add_": lambda x, y: x.add_(y),
    "-": lambda x, y: x - y,
    "out=": lambda x, y: torch.add(x, y, out=x),
}
CONCATENATIONS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "cat": lambda parts: torch.cat(parts, dim=1),
    "cat in tuple": lambda parts: torch.cat(tuple(parts), 1),
    "concat": lambda parts: torch.concat(parts, dim=1),
}


@dataclass(frozen=True)
class Step:
    """What makes one value from earlier ones: a kind, the positions of the values it reads, names of modules, a choice."""

    kind: str
    reads: tuple[int, ...]
    modules: tuple[str, ...] = ()
    choice: str = ""


@dataclass
class Recipe:
    """A network as it is drawn: its modules, its steps, and of each value the channels and the side."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: list[tuple[int, int]] = field(default_factory=list)

    def module(self, module: nn.Module) -> str:
        name = f"{type(module).__name__.lower()}{len(self.modules)}"
        self.modules[name] = module
        return name

    def add(self, step: Step, channels: int, side: int) -> int:
        self.steps.append(step)
        self.values.append((channels, side))
        return len(self.values) - 1


class RandomNetwork(nn.Module):
    """Runs a recipe: value 0 is the images, and each step appends one."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.steps, self.parts = recipe.steps, nn.ModuleDict(recipe.modules)
        self.gain = nn.Parameter(torch.rand(1, 1, 1, 1) + 0.5)
        self.head = nn.Linear(recipe.values[-1][0], 5)

    def forward(self, images: Tensor) -> Tensor:
        values = [images]
        for step in self.steps:
            values.append(self.run(step, [values[position] for position in step.reads]))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(values[-1], 1), 1))

    def run(self, step: Step, reads: list[Tensor]) -> Tensor:
        x = reads[0]
        for name in step.modules:
            x = self.parts[name](x)
        match step.kind:
            case "activation":
                return ACTIVATIONS[step.choice](x)
            case "join":
                return JOINS[step.choice](x, reads[1])
            case "concatenation":
                return CONCATENATIONS[step.choice](reads)
            case "gain":
                return x * self.gain
            case "gate":
                return x * torch.sigmoid(x.mean((2, 3), keepdim=True))
            case "half":
                return x.chunk(2, dim=1)[0]
            case "shuffle":
                n, channels, height, width = x.size()
                return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        return x


def settle(network: nn.Module) -> nn.Module:
    """Random batch norms, so that a forgotten one is seen."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
    return network.eval()


@st.composite
def networks(draw: st.DrawFn) -> RandomNetwork:
    """Three to nine steps behind a stem; every value has a power of two of channels and pixels a side."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    recipe = Recipe(values=[(3, SIDE)])
    recipe.add(Step("module", (0,), (recipe.module(nn.Conv2d(3, CHANNELS, 3, padding=1)),)), CHANNELS, SIDE)
    shared_relu = recipe.module(nn.ReLU(inplace=True))
    kinds = (
        "conv",
        "conv",
        "norm",
        "activation",
        "shared relu",
        "residual",
        "residual",
        "branches",
        "pool",
        "twice",
        "gain",
    )
    for _ in range(draw(st.integers(3, 9))):
        last = len(recipe.values) - 1
        source = draw(st.sampled_from([last, last, max(last - 1, 1)]))
        channels, side = recipe.values[source]
        match draw(st.sampled_from((*kinds, "gain", "gate", "shuffle", "half"))):
            case "conv":
                _convolution(draw, recipe, source, draw(st.sampled_from((1, 2))))
            case "norm":
                norm = nn.BatchNorm2d(channels, affine=draw(st.booleans()))
                recipe.add(Step("module", (source,), (recipe.module(norm),)), channels, side)
            case "activation":
                recipe.add(Step("activation", (source,), choice=draw(st.sampled_from(sorted(ACTIVATIONS)))), channels, side)
            case "shared relu":
                recipe.add(Step("module", (source,), (shared_relu,)), channels, side)
            case "residual":
                _residual(draw, recipe, source)
            case "branches":
                stride = draw(st.sampled_from((1, 2)))
                ends = [_convolution(draw, recipe, source, stride) for _ in range(draw(st.integers(2, 3)))]
                made = (sum(recipe.values[end][0] for end in ends), recipe.values[ends[0]][1])
                step = Step("concatenation", tuple(ends), choice=draw(st.sampled_from(sorted(CONCATENATIONS))))
                joined = recipe.add(step, *made)
                recipe.add(Step("module", (joined,), (recipe.module(nn.Conv2d(made[0], CHANNELS, 1)),)), CHANNELS, made[1])
            case "pool" if side >= 4:
                kind = draw(st.sampled_from((nn.MaxPool2d, nn.AvgPool2d)))
                pool = kind(*draw(st.sampled_from(((2, 2), (3, 2, 1), (3, 1, 1)))))
                step = Step("module", (source,), (recipe.module(pool),))
                recipe.add(step, channels, side // pool.stride)
            case "twice":
                conv = recipe.module(nn.Conv2d(channels, channels, 3, padding=1, bias=draw(st.booleans())))
                norm = recipe.module(nn.BatchNorm2d(channels))
                recipe.add(Step("module", (source,), (conv, norm, conv)), channels, side)
            case "half" if channels > 2:
                recipe.add(Step("half", (source,)), channels // 2, side)
            case "gain" | "gate" | "shuffle" as kind:
                recipe.add(Step(kind, (source,)), channels, side)
    _convolution(draw, recipe, len(recipe.values) - 1, draw(st.sampled_from((1, 2))))
    return settle(RandomNetwork(recipe))


def _convolution(draw: st.DrawFn, recipe: Recipe, source: int, stride: int, channels: int | None = None) -> int:
    """A convolution, and perhaps a batch norm and an activation behind it."""
    before, side = recipe.values[source]
    channels = channels or draw(st.sampled_from((CHANNELS, 2 * CHANNELS)))
    stride = stride if side >= 4 else 1
    size, dilation = draw(st.sampled_from((1, 3, 3, 5))), draw(st.sampled_from((1, 1, 2)))
    groups = draw(st.sampled_from((1, 1, 2)))
    groups = groups if before % groups == 0 else 1
    padding = dilation * (size // 2)
    conv = nn.Conv2d(before, channels, size, stride, padding, dilation, groups, bias=draw(st.booleans()))
    names = [recipe.module(conv)]
    if draw(st.booleans()):
        names.append(recipe.module(nn.BatchNorm2d(channels)))
    if draw(st.booleans()):
        names.append(recipe.module(nn.ReLU(inplace=draw(st.booleans()))))
    return recipe.add(Step("module", (source,), tuple(names)), channels, side // stride)


def _residual(draw: st.DrawFn, recipe: Recipe, source: int) -> None:
    """A block of one or two convolutions, beside a shortcut with or without projection."""
    channels, side = recipe.values[source]
    stride = draw(st.sampled_from((1, 2))) if side >= 4 else 1
    width = draw(st.sampled_from((channels, 2 * CHANNELS)))
    end = _convolution(draw, recipe, source, stride, width)
    if draw(st.booleans()):
        end = _convolution(draw, recipe, end, 1, width)
    shortcut = source
    if stride == 2 or width != channels or draw(st.booleans()):
        projection: list[nn.Module] = [nn.Conv2d(channels, width, 1, stride, bias=False)]
        if stride == 2 and draw(st.booleans()):
            projection = [nn.AvgPool2d(2, 2), nn.Conv2d(channels, width, 1, bias=False)]
        if draw(st.booleans()):
            projection.append(nn.BatchNorm2d(width))
        names = tuple(recipe.module(module) for module in projection)
        shortcut = recipe.add(Step("module", (source,), names), width, side // stride)
    recipe.add(Step("join", (end, shortcut), choice=draw(st.sampled_from(sorted(JOINS)))), *recipe.values[end])
