"""The same images seen differently: resized or cropped (paper, section 4.5), mirrored, drawn again, or one split of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from dynamic.errors import UserError
from oracle.data.image_source import Batch, ImageSource
from oracle.data.scenes_source import ScenesSource
from oracle.data.splits import SPLITS


@dataclass(frozen=True)
class View:
    """What to make of a source.

    Attributes:
        crop: share of each side that is kept, about the object's centre where the source knows it, else the image's;
            less shows less of an object's surroundings.
        resize: factor by which the (cropped) images are then enlarged or reduced; the network sees another resolution.
        splits: the splits that are kept.
        mirror: whether left and right change places.

    Raises:
        UserError: a factor out of range.
    """

    crop: float = 1.0
    resize: float = 1.0
    splits: tuple[str, ...] = SPLITS
    mirror: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise UserError(f"--crop must be above 0 and at most 1, not {self.crop}")
        if not 1 / 16 <= self.resize <= 16:
            raise UserError(f"--resize must be from 1/16 to 16, not {self.resize}")

    def sides(self, side: int) -> tuple[int, int]:
        """Of images of ``side`` pixels: the side after the crop, and that after the resize, in pixels.

        >>> View(crop=0.5, resize=2.0).sides(96)
        (48, 96)
        """
        cropped = round(side * self.crop)
        return cropped, round(cropped * self.resize)

    def apply(self, images: torch.Tensor, centres: np.ndarray) -> torch.Tensor:
        """Crop, resize and mirror square images; crops stay within the image.

        Args:
            images: (N, C, H, H) float.
            centres: (N, 2) x and y of what to keep, as shares of the side.

        Returns:
            (N, C, R, R), with R the second of :meth:`sides`.

        >>> View(crop=0.5).apply(torch.arange(16.0).reshape(1, 1, 4, 4), np.array([[1.0, 0.0]]))
        tensor([[[[2., 3.],
                  [6., 7.]]]])
        """
        side, resolution = self.sides(images.shape[-1])
        if side < images.shape[-1]:
            corners = centres * images.shape[-1] - side / 2
            corners = corners.round().astype(int).clip(0, images.shape[-1] - side)
            images = torch.stack(
                [image[:, y : y + side, x : x + side] for image, (x, y) in zip(images, corners, strict=True)]
            )
        if resolution != side:
            size = (resolution, resolution)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        return images.flip(-1) if self.mirror else images


class ViewedSource:
    """A source seen through a view; see :class:`oracle.data.image_source.ImageSource`.

    Raises:
        UserError: images would shrink below 8 pixels.
    """

    def __init__(self, source: ImageSource, view: View) -> None:
        kept = np.flatnonzero(np.isin(source.splits, view.splits))
        self._source, self._view, self._kept = source, view, kept
        self.keys, self.splits, self.labels = source.keys[kept], source.splits[kept], source.labels[kept]
        self.metadata = {name: values[kept] for name, values in source.metadata.items()}
        self.centres = source.centres[kept]
        if view.mirror:
            self.centres = self.centres * [-1, 1] + [1, 0]
        self.stand_in = source.stand_in
        self.class_names, self.preprocessing = source.class_names, source.preprocessing
        cropped, self.resolution = view.sides(source.resolution)
        if min(cropped, self.resolution) < 8:
            raise UserError(
                f"--crop {view.crop:g} and --resize {view.resize:g} leave {self.resolution} pixels of {source.resolution}"
            )
        changed = {name: f"{value:g}" for name in ("crop", "resize") if (value := getattr(view, name)) != 1}
        if set(view.splits) != set(SPLITS):
            changed["splits"] = ",".join(view.splits)
        if view.mirror:
            changed["mirror"] = "yes"
        self.identity = source.identity | changed

    def load(self, rows: np.ndarray) -> Batch:
        """Read, crop and resize some rows."""
        batch = self._source.load(self._kept[rows])
        return replace(batch, images=self._view.apply(batch.images, self.centres[rows]))

    def drawn_again(self, number: int) -> ViewedSource:
        """See :func:`drawn_again`."""
        return ViewedSource(drawn_again(self._source, number), self._view)


def view_source(source: ImageSource, view: View) -> ImageSource:
    """``source`` seen through ``view``; itself where that changes nothing."""
    return source if view == View() else ViewedSource(source, view)


def drawn_again(source: ImageSource, number: int) -> ImageSource:
    """Another look at the same images, under the same keys, from which more can be learned.

    Args:
        source: the images. fashion-scenes put the same photographs into other scenes; pictures are mirrored.
        number: of the look, from 1.

    Raises:
        UserError: more looks than there are.
    """
    if isinstance(source, (ScenesSource, ViewedSource)):
        return source.drawn_again(number)
    if number > 1:
        raise UserError("pictures have two views, as they are and mirrored: --views 2 at most")
    return ViewedSource(source, View(mirror=True))


def readable_label_rows(source: ImageSource, count: int, at_once: int = 128) -> np.ndarray:
    """Rows of those of the first ``count`` images of the label split that can be read: for batch-norm statistics.

    Raises:
        UserError: fewer than two can be read.
    """
    rows = np.flatnonzero(source.splits == "label")[:count]
    parts = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    readable = [part[source.load(part).readable] for part in parts]
    if sum(map(len, readable)) < 2:
        found = sum(map(len, readable))
        raise UserError(f"recalibration needs at least two readable images in the label split, found {found}")
    return np.concatenate(readable)
