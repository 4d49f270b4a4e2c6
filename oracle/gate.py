"""The gate of ``oracle.rof --method specialise``: which configurations an image trains, judged by what it can see.

Without a gate, multiple-choice learning gives an image to the configuration that happens to be best on it, label known; no
selector could follow that. The gate sees the image alone, so configurations specialise in what can be seen. And it deals
every configuration the same share of each batch: left free, it sends everything to the configuration that began best.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EVEN_SHARE = 0.1
"""Of every image's weight, dealt evenly over the configurations."""

_SHARPNESS = 20.0
_ROUNDS = 100
_LARGEST = 2.0


class Gate(nn.Module):
    """A small CNN on the image at half resolution that predicts how much more or less than the others each
    configuration's loss will be: (N, 3, H, W) -> (N, configurations); nothing at first."""

    def __init__(self, configurations: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.GroupNorm(4, outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, configurations)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Expected loss of each configuration, less their mean."""
        return self.head(self.features(F.avg_pool2d(images, 2)).mean(dim=(2, 3)))


def shares(expected: Tensor) -> Tensor:
    """(N, configurations): how much of each image trains each configuration, each about N / configurations images.

    Sinkhorn's iteration: rows sum to 1, columns to equal shares, more where less loss is expected.
    """
    logits = -_SHARPNESS * expected.detach()
    for _ in range(_ROUNDS):
        logits = logits - logits.logsumexp(dim=0, keepdim=True)
        logits = logits - logits.logsumexp(dim=1, keepdim=True)
    return (1 - EVEN_SHARE) * logits.exp() + EVEN_SHARE / expected.shape[1]


def gate_loss(expected: Tensor, losses: Tensor) -> Tensor:
    """Squared error of what the gate expects, given the (N, configurations) losses that came."""
    relative = (losses - losses.mean(dim=1, keepdim=True)).clamp(-_LARGEST, _LARGEST)
    return torch.square(expected - relative).mean()
