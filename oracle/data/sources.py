"""Labelled images by the name of their data set: fashion-scenes, ImageNet, Imagenette, or any folder of class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dynamic.errors import UserError
from dynamic.models import ModelInfo
from dynamic.scenes import CLASSES, Regime
from oracle.data.folders import FolderSource
from oracle.data.image_source import Batch, ImageSource
from oracle.data.scenes_source import ScenesSource
from oracle.data.splits import SPLITS

__all__ = ["SPLITS", "Batch", "DatasetName", "ImageSource", "open_source"]

DatasetName = Literal["fashion-scenes", "imagenet", "imagenette", "imagefolder"]


def open_source(
    name: DatasetName,
    info: ModelInfo,
    *,
    images: int | None,
    data_dir: Path | None = None,
    regime: Regime = "matched",
    seed: int = 0,
    class_map: Path | None = None,
) -> ImageSource:
    """Open a data set for a network.

    Args:
        name: which data set.
        info: of the network, for its transform, resolution and number of classes.
        images: at most so many a split; None for all.
        data_dir: folder of the data set; fashion-scenes are embedded.
        regime: of fashion-scenes.
        seed: draws the scenes, or orders a folder's images within each split.
        class_map: JSON file, folder name -> class index, where folder names do not tell.

    Raises:
        UserError: a missing or empty folder, classes that do not fit the network.

    >>> import dynamic
    >>> source = open_source("fashion-scenes", dynamic.load("resnet50-slim").info, images=2)
    >>> source.keys.tolist(), source.splits.tolist()
    (['label/00000', 'label/00001', 'test/00000', 'test/00001'], ['label', 'label', 'test', 'test'])
    """
    if images is not None and images < 1:
        raise UserError(f"--images must be at least 1, not {images}")
    if name == "fashion-scenes":
        if info.classes != len(CLASSES):
            raise UserError(
                f"{info.name} has {info.classes} classes, fashion-scenes has {len(CLASSES)}: "
                "choose a slim network or another --dataset with --data-dir"
            )
        if data_dir is not None or class_map is not None:
            raise UserError(
                "--data-dir and --class-map do not apply to fashion-scenes, which are embedded; choose another --dataset"
            )
        return ScenesSource(regime, seed, images, info.preprocessing.channels)
    if data_dir is None:
        raise UserError(f"--dataset {name} needs --data-dir, the folder that holds its class folders")
    return FolderSource(name, data_dir, info, images, seed, class_map)
