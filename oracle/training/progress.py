"""How good a network in training is by now: accuracies on a few label images, for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.models import LoadedNetwork
from dynamic.network import DynamicNetwork
from dynamic.recalibration import can_recalibrate, recalibrate
from oracle.data.sources import ImageSource, open_source
from oracle.training.settings import RofSettings

CHECKED = 16
"""Random configurations whose accuracy on label images is logged after every epoch."""


@dataclass(frozen=True, kw_only=True)
class LabelImages:
    """Label images, which are neither trained on nor reported on.

    Attributes:
        source: what loads them.
        rows: (N,) positions of the label images in ``source``.
    """

    source: ImageSource
    rows: np.ndarray


def open_label_images(settings: RofSettings, network: LoadedNetwork) -> LabelImages:
    """The label images of the data set that is trained on."""
    scenes = settings.dataset == "fashion-scenes"
    source = open_source(
        settings.dataset,
        network.info,
        images=settings.checked_images,
        data_dir=None if scenes else settings.data_dir,
        regime=settings.regime,
        class_map=settings.class_map,
        seed=settings.seed,
    )
    return LabelImages(source=source, rows=np.flatnonzero(source.splits == "label"))


def accuracies(
    network: LoadedNetwork, images: LabelImages, configurations: Sequence[Configuration], seed: int
) -> dict[str, Any]:
    """Accuracy of the default, and mean accuracy of :data:`CHECKED` random configurations, the same in every epoch.

    Where there are no more, each one's accuracy too, under batch norms re-estimated on these images, without their labels.
    """
    picked = np.random.default_rng(seed).choice(len(configurations), min(CHECKED, len(configurations)), replace=False)
    tried = [network.default, *(configurations[position] for position in picked)]
    shares = _shares(network.eval(), images, tried)
    found: dict[str, Any] = {"label_default": shares[0], "label_random": round(float(np.mean(shares[1:])), 4)}
    if len(configurations) <= CHECKED and can_recalibrate(network):
        each = [network.default, *(c for c in reversed(configurations) if c != network.default)]
        statistics = recalibrate(network, _readable(images, images.rows)[0], each, device=str(_device(network)))
        ready = network.for_inference(_device(network), statistics=statistics)
        found["label_recalibrated"] = {c.id: share for c, share in zip(each, _shares(ready, images, each), strict=True)}
    return found


@torch.inference_mode()
def _shares(network: DynamicNetwork, images: LabelImages, tried: Sequence[Configuration]) -> list[float]:
    """Shares of the images that each configuration has right."""
    right, seen = np.zeros(len(tried)), 0
    for part in np.array_split(images.rows, -(-len(images.rows) // 50)):
        loaded, labels = _readable(images, part)
        loaded = loaded.to(_device(network), memory_format=torch.channels_last)
        right += [int((network(loaded, configuration).argmax(dim=1).cpu() == labels).sum()) for configuration in tried]
        seen += len(labels)
    return [round(float(share), 4) for share in right / max(seen, 1)]


def _readable(images: LabelImages, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W), normalised, and labels (n,): those that can be read."""
    batch = images.source.load(rows)
    readable = torch.from_numpy(batch.readable)
    return batch.images[readable], torch.from_numpy(images.source.labels[rows])[readable]


def _device(network: DynamicNetwork) -> torch.device:
    return next(network.parameters()).device
