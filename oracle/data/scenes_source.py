"""fashion-scenes as a source: scenes of Fashion-MNIST's photographs, rendered as they are asked for."""

from __future__ import annotations

import numpy as np
import torch

from dynamic.scenes import CANVAS, CLASSES, FashionScenes, Regime, scenes_preprocessing
from oracle.data.digests import digest_of
from oracle.data.image_source import Batch
from oracle.data.splits import SPLITS


class ScenesSource:
    """fashion-scenes' label and test splits, which the data set itself keeps apart; see :mod:`dynamic.scenes`.

    Args:
        regime: range of the objects' sizes.
        seed: draws the scenes.
        images: at most so many a split; None for all.
        channels: 3 equal ones, or 1 for a network of grey pictures.

    >>> source = ScenesSource("matched", seed=0, images=3)
    >>> source.keys.tolist()
    ['label/00000', 'label/00001', 'label/00002', 'test/00000', 'test/00001', 'test/00002']
    >>> source.load(np.array([0, 5])).images.shape
    torch.Size([2, 3, 96, 96])
    """

    def __init__(self, regime: Regime, seed: int, images: int | None, channels: int = 3) -> None:
        self._drawn_as = regime, seed, images, channels
        self._scenes = [FashionScenes(split, regime, seed, count=images) for split in ("label", "test")]
        self.splits = np.repeat(SPLITS, [len(scenes) for scenes in self._scenes])
        self._rows = np.concatenate([np.arange(len(scenes)) for scenes in self._scenes])
        self.keys = np.array([f"{split}/{row:05d}" for split, row in zip(self.splits, self._rows, strict=True)])
        self.labels = np.concatenate([scenes.labels for scenes in self._scenes])
        self.metadata = {"side": np.concatenate([scenes.sides for scenes in self._scenes])}
        self.centres = np.concatenate([scenes.centres for scenes in self._scenes])
        self.identity = {
            "dataset": "fashion-scenes",
            "regime": regime,
            "seed": str(seed),
            "images": digest_of(self.keys, self.labels),
        }
        self.resolution = CANVAS
        self.stand_in = True
        self.class_names: tuple[str, ...] = CLASSES
        self.preprocessing = scenes_preprocessing(channels)

    def drawn_again(self, number: int) -> ScenesSource:
        """The same photographs in other scenes; see :func:`oracle.data.views.drawn_again`."""
        regime, seed, images, channels = self._drawn_as
        return ScenesSource(regime, seed + number, images, channels)

    def load(self, rows: np.ndarray) -> Batch:
        """Render some rows."""
        channels = self.preprocessing.channels
        images = torch.empty(len(rows), channels, self.resolution, self.resolution)
        for split, scenes in zip(SPLITS, self._scenes, strict=True):
            chosen = np.flatnonzero(self.splits[rows] == split)
            if len(chosen):
                images[torch.from_numpy(chosen)] = scenes.render(self._rows[rows[chosen]])[:, :channels]
        return Batch(images=images, readable=np.ones(len(rows), bool))
