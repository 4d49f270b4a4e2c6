"""Weights averaged over the steps of a training: less noisy than the last ones, at the price of a copy."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynamic.models import LoadedNetwork
from oracle.data.training_images import TrainingImages

NORM_BATCHES = 40
"""Batches of training images that the averaged network's batch-norm statistics are estimated on."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """Averaged weights, twice the same tensors.

    Attributes:
        weights: what takes up every step's weights.
        network: the dynamic network that computes with them, in evaluation mode.
    """

    weights: AveragedModel
    network: LoadedNetwork


def averaged(network: LoadedNetwork, decay: float) -> Average:
    """An exponential moving average of ``network``'s weights, which begins with those that it has.

    Batch norms' running statistics are averaged like the weights; :func:`estimate_norms` replaces them at the end.
    """
    copied = deepcopy(network).requires_grad_(False).eval()
    weights = AveragedModel(copied.original, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    weights.module = copied.original  # AveragedModel copied it once more
    return Average(weights=weights, network=copied)


@torch.no_grad()
def estimate_norms(network: LoadedNetwork, images: TrainingImages, batch: int, seed: int) -> None:
    """Set the running statistics of the default configuration to the mean over some batches of training images.

    As :func:`torch.optim.swa_utils.update_bn`, which would also run dropout and knows no configurations.
    """
    norms = [
        module for module in network.original.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    order = np.random.default_rng([seed, len(images)]).permutation(len(images))
    rows = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)][:NORM_BATCHES]
    before = [norm.momentum for norm in norms]  # the network's other modules are in evaluation mode
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    device = next(network.parameters()).device
    for loaded, _ in images.batches(0, rows):
        network.original(loaded.to(device, memory_format=torch.channels_last))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()
