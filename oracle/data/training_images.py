"""Labelled images to fine-tune on: fashion-scenes' training split, or the class folders of DIR/train.

No image here is in the label or test split of :mod:`oracle.data.splits`: copies of images in DIR/val are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from dynamic.errors import UserError
from dynamic.models import ModelInfo
from dynamic.pictures import upright
from dynamic.resources import cpu_count
from dynamic.scenes import FashionScenes, Regime
from oracle.data.digests import digest_of
from oracle.data.folders import class_folders, class_names_in, find_root
from oracle.data.listing import ImageFile, as_text, copies, list_images, tell, tell_left_out
from oracle.data.sources import DatasetName

_UNREADABLE = -1
"""Label of an image that cannot be read."""


class TrainingImages(Protocol):
    """Images with labels, augmented anew in every epoch.

    Attributes:
        digest: number of images and a short hash of their names and labels.
    """

    digest: str

    def __len__(self) -> int: ...

    def batches(self, epoch: int, rows: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (n, channels, H, W) float32, normalised, and labels (n,) int64, for each array of rows in turn."""
        ...


def open_training_images(
    name: DatasetName,
    info: ModelInfo,
    data_dir: Path | None,
    class_map: Path | None,
    images: int | None,
    seed: int,
    regime: Regime = "matched",
) -> TrainingImages:
    """The training images that belong to a data set.

    Raises:
        UserError: they are not there, or their classes do not fit the network.
    """
    if name == "fashion-scenes":
        return ScenesTraining(data_dir, images, seed, regime, info.preprocessing.channels)
    if data_dir is None:
        raise UserError(f"--dataset {name} needs --data-dir, the folder that holds train/ with its class folders")
    root = find_root(data_dir, name, "train")
    return FolderTraining(root, _training_files(root, data_dir, name, info, class_map), info, images, seed)


def _training_files(
    root: Path, data_dir: Path, name: DatasetName, info: ModelInfo, class_map: Path | None
) -> list[ImageFile]:
    """The images in ``root``, without those that the label or the test split has too."""
    listing = list_images(root, class_folders(root, info, class_map))
    tell_left_out(listing)
    try:
        val = find_root(data_dir, name, "val")
    except UserError:  # there is no such folder yet
        return listing.images
    everything = list_images(val, dict.fromkeys(class_names_in(val), 0)).images  # whatever its folders are classes of
    kept_back = [file for file in everything if not file.path.is_relative_to(root)]
    elsewhere = {file.path for file in kept_back}
    groups = copies([*listing.images, *kept_back])
    leaked = {file.path for group in groups if any(file.path in elsewhere for file in group) for file in group} - elsewhere
    if 0 < len(leaked) < len(listing.images):
        tell(f"left out {len(leaked)} training images that are in {val} too, such as {min(leaked)}")
    kept = [file for file in listing.images if file.path not in leaked]
    if leaked and not kept:
        raise UserError(
            f"all {len(leaked)} images in {root} are in {val} too, where accuracy is measured: put others in one"
        )
    return kept


class ScenesTraining:
    """The 50,000 training photographs in scenes of one regime, drawn anew in every epoch."""

    def __init__(self, data_dir: Path | None, images: int | None, seed: int, regime: Regime, channels: int) -> None:
        self._scenes = FashionScenes("train", regime, data_dir=data_dir, count=images)
        self._seed, self._channels = seed, channels
        self.digest = digest_of(np.arange(len(self._scenes)), self._scenes.labels)

    def __len__(self) -> int:
        return len(self._scenes)

    def batches(self, epoch: int, rows: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`TrainingImages`."""
        self._scenes.reseed(self._seed * 1000 + epoch + 1)
        for part in rows:
            yield self._scenes.render(part)[:, : self._channels], torch.from_numpy(self._scenes.labels[part])


class FolderTraining:
    """Images in class folders, randomly cropped and mirrored; the crop depends on seed, epoch and image alone."""

    def __init__(self, root: Path, files: list[ImageFile], info: ModelInfo, images: int | None, seed: int) -> None:
        if images is not None:
            kept = np.random.default_rng(seed).permutation(len(files))[:images]
            files = [files[row] for row in sorted(kept)]
        if not files:
            raise UserError(f"{root} holds no images: expected {root}/CLASS/IMAGE.jpg")
        self._files, self._info, self._seed = files, info, seed
        self.digest = digest_of(np.array([file.key for file in files]), np.array([file.label for file in files]))

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, epoch: int, rows: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`TrainingImages`. Images that cannot be read are left out, and named on stderr.

        Raises:
            UserError: fewer than two images of a batch can be read.
        """
        workers = min(cpu_count(), 8)
        augmented = _Augmented(self._files, self._info, [self._seed, epoch])
        loader = DataLoader(augmented, batch_sampler=[part.tolist() for part in rows], num_workers=workers)
        for part, (images, labels) in zip(rows, loader, strict=True):
            readable = labels >= 0
            for row in part[~readable.numpy()]:
                print(f"left out {as_text(str(self._files[row].path))}, which cannot be read", file=sys.stderr)
            if readable.sum() < 2:
                raise UserError("fewer than two images of a batch can be read: remove the damaged ones named above")
            yield images[readable], labels[readable]


class _Augmented(Dataset[tuple[Tensor, int]]):
    """Random crops and mirror images; in a worker process, whose random state is its own."""

    def __init__(self, files: list[ImageFile], info: ModelInfo, seeds: list[int]) -> None:
        self._files, self._info, self._seeds = files, info, seeds
        # The network's own transform follows; it resizes to about 8/7 of its resolution and normalises.
        self._augment = v2.Compose([v2.RandomResizedCrop(info.resolution * 8 // 7), v2.RandomHorizontalFlip()])

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        file = self._files[row]
        torch.manual_seed(int(np.random.SeedSequence([*self._seeds, row]).generate_state(1)[0]))
        try:
            with Image.open(file.path) as image:
                return self._info.preprocessing(self._augment(upright(image))), file.label
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return torch.zeros(self._info.preprocessing.channels, self._info.resolution, self._info.resolution), _UNREADABLE
