"""A small CNN on the features in front of layer B, trained on the correctness of all configurations."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from selector.observation.images import Images, RecordedImages
from selector.observation.observations import Observations
from selector.policies.base import State
from selector.policies.scoring import ScoringPolicy

EVALUATED = 1024
"""Images a batch when it decides."""


class _Net(nn.Module):
    """(N, channels, 6, 6) maps and (N, features) vectors to (N, K) logits of being right."""

    def __init__(self, channels: int, features: int, configurations: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.see = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Linear(2 * width + features, 2 * width)
        self.out = nn.Linear(2 * width, configurations)

    def forward(self, maps: Tensor, vectors: Tensor) -> Tensor:
        seen = F.relu(self.see(F.relu(self.reduce(maps))))
        joined = torch.cat([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3)), vectors], dim=1)
        return self.out(F.dropout(F.relu(self.join(joined)), 0.3, self.training))


class Head(ScoringPolicy):
    """A CNN head, about 0.5 MMACs.

    Loss: cross-entropy of every configuration's correctness, plus the expected error of a configuration drawn from the
    softmax of the scores, so that the order at the top counts and not the calibration everywhere.

    Args:
        epochs: passes over the label images.
        width: channels.
        sharpness: of that softmax, per point of probability.
        seed: of weights and order.
    """

    name = "head"

    def __init__(self, epochs: int = 12, width: int = 32, sharpness: float = 10.0, seed: int = 0) -> None:
        super().__init__(("map", "image", "stem"), seed)
        self.epochs, self.width, self.sharpness = epochs, width, sharpness

    def _fit(self, observed: Observations) -> None:
        maps, vectors = self._inputs(RecordedImages(observed), first=True)
        right = torch.from_numpy(observed.correct.astype(np.float32))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.net_ = _Net(maps.shape[1], vectors.shape[1], right.shape[1], self.width)
            with torch.no_grad():
                base = right.mean(dim=0).clamp(0.01, 0.99)
                self.net_.out.weight.mul_(0.1)
                self.net_.out.bias.copy_(base.logit())
            optimizer = torch.optim.AdamW(self.net_.parameters(), 2e-3, weight_decay=1e-2)
            size = min(128, len(right))
            steps = self.epochs * (len(right) // size)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(steps, 2))
            self.net_.train()
            for _ in range(self.epochs):
                for rows in torch.randperm(len(right))[: len(right) // size * size].split(size):
                    optimizer.zero_grad()
                    self._loss(self.net_(maps[rows], vectors[rows]), right[rows]).backward()
                    optimizer.step()
                    schedule.step()
        self._finish()

    def _loss(self, logits: Tensor, right: Tensor) -> Tensor:
        calibrated = F.binary_cross_entropy_with_logits(logits, right)
        drawn = (self.sharpness * logits.sigmoid()).softmax(dim=1)
        return calibrated + (drawn * (1 - right)).sum(dim=1).mean()

    def _inputs(self, images: Images, first: bool = False) -> tuple[Tensor, Tensor]:
        maps = images.features("map")
        vectors = np.concatenate([images.features("image"), images.features("stem")], axis=1)
        if first:
            self.map_mean_ = maps.mean(axis=(0, 2, 3))
            self.map_scale_ = maps.std(axis=(0, 2, 3)) + 1e-3
            self.mean_, self.scale_ = vectors.mean(axis=0), vectors.std(axis=0) + 1e-3
        maps = (maps - self.map_mean_[:, None, None]) / self.map_scale_[:, None, None]
        vectors = ((vectors - self.mean_) / self.scale_).clip(-5, 5)
        return torch.from_numpy(maps.astype(np.float32)), torch.from_numpy(vectors.astype(np.float32))

    def _scores(self, images: Images) -> np.ndarray:
        maps, vectors = self._inputs(images)
        with torch.inference_mode():
            parts = zip(maps.split(EVALUATED), vectors.split(EVALUATED), strict=True)
            return torch.cat([self.net_(*part).sigmoid() for part in parts]).numpy()

    def _finish(self) -> None:
        self.net_.eval()
        maps = torch.zeros(1, len(self.map_mean_), 6, 6)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.net_(maps, torch.zeros(1, len(self.mean_)))
        self.own_macs_ = counter.get_total_flops() / 2

    def _state(self) -> State:
        arrays = {f"net.{name}": value.numpy() for name, value in self.net_.state_dict().items()}
        scales = {name: getattr(self, f"{name}_") for name in ("map_mean", "map_scale", "mean", "scale")}
        return State(arrays=arrays | scales)

    def _restore(self, state: State) -> None:
        for name in ("map_mean", "map_scale", "mean", "scale"):
            setattr(self, f"{name}_", state.arrays[name])
        weights = {name.removeprefix("net."): torch.from_numpy(v) for name, v in state.arrays.items() if "net." in name}
        shape = len(self.map_mean_), len(self.mean_), len(weights["out.bias"])
        self.net_ = _Net(*shape, self.width)
        self.net_.load_state_dict(weights)
        self._finish()
