"""Training of the CNN head: the only part of it that needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadNet(nn.Module):
    """(N, channels, 6, 6) maps and (N, features) vectors to (N, K) logits of being right."""

    def __init__(self, channels: int, features: int, configurations: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.see = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Linear(2 * width + features, 2 * width)
        self.out = nn.Linear(2 * width, configurations)

    def forward(self, maps: Tensor, vectors: Tensor) -> Tensor:
        """See the class."""
        seen = F.relu(self.see(F.relu(self.reduce(maps))))
        joined = torch.cat([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3)), vectors], dim=1)
        return self.out(F.dropout(F.relu(self.join(joined)), 0.3, self.training))


def train_head(
    take: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    right: np.ndarray,
    *,
    epochs: int,
    width: int,
    sharpness: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Weights of :class:`selector.policies.head.Head` by name; its parameters have the same names.

    Args:
        take: gives some rows' (rows, channels, 6, 6) maps and (rows, features) vectors, float32 and standardised.
        right: (N, K) bool.
        epochs, width, sharpness, seed: see :class:`selector.policies.head.Head`.
    """
    target = torch.from_numpy(right.astype(np.float32))
    maps, vectors = take(np.arange(1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = HeadNet(maps.shape[1], vectors.shape[1], right.shape[1], width)
        with torch.no_grad():
            base = target.mean(dim=0).clamp(0.01, 0.99)
            net.out.weight.mul_(0.1)
            net.out.bias.copy_(base.logit())
        optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
        size = min(128, len(target))
        steps = epochs * (len(target) // size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(steps, 2))
        net.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(target))[: len(target) // size * size].split(size):
                optimizer.zero_grad()
                seen, known = map(torch.from_numpy, take(rows.numpy()))
                _loss(net(seen, known), target[rows], sharpness).backward()
                optimizer.step()
                schedule.step()
    return {name: value.numpy() for name, value in net.state_dict().items()}


def _loss(logits: Tensor, right: Tensor, sharpness: float) -> Tensor:
    calibrated = F.binary_cross_entropy_with_logits(logits, right)
    drawn = (sharpness * logits.sigmoid()).softmax(dim=1)
    return calibrated + (drawn * (1 - right)).sum(dim=1).mean()
