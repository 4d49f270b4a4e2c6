"""Networks that run in plain PyTorch load, and what does not run is refused with its own reason."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynamic
from dynamic import UserError


class Plain(nn.Module):
    """Three convolutions and a head; subclasses wire them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a = nn.Conv2d(4, 4, 3, 2, padding=1)
        self.b = nn.Conv2d(4, 4, 3, 2, padding=1)
        self.head = nn.Linear(4, 2)

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.b(self.a(self.stem(x))).mean((2, 3)))
        return logits

    def forward(self, x: Tensor) -> Any:
        return self.classify(x)


class WithLoss(Plain):
    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        logits = self.classify(x)
        return logits if targets is None else (logits, F.cross_entropy(logits, targets))


class WithOptions(Plain):
    def forward(self, x: Tensor, scale: float = 2.0, *rest: Tensor, twice: bool = True, **more: Any) -> Any:
        for other in rest:
            x = x + other
        if twice and not more.get("once"):
            x = x * scale
        return self.classify(x)


@pytest.mark.parametrize("kind", [WithLoss, WithOptions])
def test_arguments_with_a_default_have_it(kind: type[Plain]) -> None:
    original = kind().eval()
    network = dynamic.load(original)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images, network.default), original(images))


class WithPosition(Plain):
    """Makes tensors of its own on the way, and holds one that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.tensor([0.5, 1, 2, 3])

    def forward(self, x: Tensor) -> Any:
        height = torch.arange(x.shape[2]).float()[None, None, :, None] / x.shape[2]
        x = self.a(self.stem(x + height)) * self.weights[None, :, None, None]
        x = x + torch.linspace(0, 1, x.shape[3])
        return self.head(self.b(x).mean((2, 3)))


def test_tensors_made_on_the_way_do_not_hinder() -> None:
    original = WithPosition().eval()
    network = dynamic.load(original)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images, network.default), original(images))
    without = dynamic.load(Plain(), dynamic_layers=network.dynamic_layers)
    assert network.macs(network.default, 32) == without.macs(without.default, 32)


class WrongHead(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)


class WrongInside(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(6, 4, 3)


class FlatHead(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 10 * 10, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.b(self.a(self.stem(x))).flatten(1))


class Numbers(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.classify(x).detach().numpy()


@pytest.mark.parametrize("layers", [None, ["a"]])
def test_what_runs_on_no_image_says_why(layers: list[str] | None) -> None:
    with pytest.raises(UserError, match=r"^WrongHead fails on images of every size: mat1 and mat2 .* \(2x4 and 5x2\)$"):
        dynamic.load(WrongHead(), dynamic_layers=layers)
    with pytest.raises(UserError, match=r"^WrongInside fails on images of every size: .* to have 6 channels, but got 4"):
        dynamic.load(WrongInside(), dynamic_layers=layers)
    with pytest.raises(UserError, match=r"none of 8, .* \(at 224: mat1 and mat2 .* 400x2\)\): .* or as --resolution$"):
        dynamic.load(FlatHead(), dynamic_layers=layers)
    assert dynamic.DynamicNetwork(FlatHead(), ["a"], resolution=40)
    with pytest.raises(UserError, match=r"Numbers must return one tensor of logits, not a ndarray"):
        dynamic.load(Numbers(), dynamic_layers=layers)


class AsksForNumbers(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.classify(x / x.abs().max().item())


def test_what_runs_on_no_meta_tensor_says_so() -> None:
    with pytest.raises(UserError, match=r"AsksForNumbers runs, but not on .* meta device, .*: .*item\(\) cannot be called"):
        dynamic.load(AsksForNumbers())


class Answer(NamedTuple):
    logits: Tensor
    auxiliary: Tensor


class Auxiliary(Plain):
    def forward(self, x: Tensor) -> Any:
        logits = self.classify(x)
        return Answer(logits, logits + 1) if self.training else logits


def test_in_training_a_named_tuple_gives_its_logits() -> None:
    original, images = Auxiliary(), torch.randn(2, 3, 32, 32)
    network = dynamic.load(original)
    expected = original.eval()(images)
    assert torch.equal(network.train()(images, network.default), expected)
