"""How good a network in training is by now: accuracies on a few label images, for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dynamic.configuration import Configuration
from dynamic.models import LoadedNetwork
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


@torch.inference_mode()
def accuracies(
    network: LoadedNetwork, images: LabelImages, configurations: Sequence[Configuration], seed: int
) -> dict[str, float]:
    """Accuracy of the default, and mean accuracy of :data:`CHECKED` random configurations, the same in every epoch."""
    device = next(network.parameters()).device
    network.eval()
    picked = np.random.default_rng(seed).choice(len(configurations), min(CHECKED, len(configurations)), replace=False)
    tried = [network.default, *(configurations[position] for position in picked)]
    right, seen = np.zeros(len(tried)), 0
    for part in np.array_split(images.rows, -(-len(images.rows) // 50)):
        batch = images.source.load(part)
        readable = torch.from_numpy(batch.readable)
        labels = torch.from_numpy(images.source.labels[part])[readable].to(device)
        loaded = batch.images[readable].to(device, memory_format=torch.channels_last)
        right += [int((network(loaded, configuration).argmax(dim=1) == labels).sum()) for configuration in tried]
        seen += len(labels)
    shares = right / max(seen, 1)
    return {"label_default": round(float(shares[0]), 4), "label_random": round(float(shares[1:].mean()), 4)}
