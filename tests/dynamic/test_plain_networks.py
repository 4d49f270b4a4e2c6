"""Networks that run in plain PyTorch load, and what does not run is refused with its own reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynamic


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
