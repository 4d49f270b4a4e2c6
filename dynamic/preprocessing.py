"""What a picture goes through before a network sees it, as plain data: a run keeps it, a service applies it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from PIL import Image

from dynamic.errors import UserError
from dynamic.pictures import upright

if TYPE_CHECKING:
    from torch import Tensor

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's, by torchvision's name."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's."""

Size = int | tuple[int, int]
"""The short side, or height and width, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Make upright (:mod:`dynamic.pictures`), resize, crop the centre, scale to [0, 1], normalise.

    Attributes:
        colour: ``grey`` makes equal channels.
        resize: the short side, or (height, width), in pixels; None leaves the size.
        crop: side, or (height, width), of the centre that is kept, in pixels; None keeps all.
        interpolation: as torchvision names it: bilinear, bicubic, nearest, ...
        mean, std: of each channel, as fractions of white. One number each makes one channel, which is grey; three make
            three.

    Raises:
        UserError: a value out of range.

    >>> prepare = imagenet_preprocessing()
    >>> prepare(Image.new("L", (300, 200))).shape
    torch.Size([3, 224, 224])
    >>> Preprocessing.from_json(prepare.to_json()) == prepare
    True
    >>> centred_preprocessing(32, mean=(0.5,), std=(0.25,))(Image.new("RGB", (80, 60))).shape
    torch.Size([1, 32, 32])
    """

    colour: Literal["rgb", "grey"] = "rgb"
    resize: Size | None = None
    crop: Size | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.colour not in ("rgb", "grey"):
            raise UserError(f"preprocessing colour must be rgb or grey, not {self.colour!r}")
        if self.interpolation not in _RESAMPLING:
            raise UserError(f"preprocessing interpolation {self.interpolation!r} is none of torchvision's")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            sides = size if isinstance(size, tuple) and len(size) == 2 else (size,)
            if size is not None and not all(type(side) is int and side > 0 for side in sides):
                raise UserError(f"preprocessing {name} must be pixels, one number or two, not {size!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            right = isinstance(values, tuple) and len(values) in (1, 3)
            if not right or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
                raise UserError(f"preprocessing {name} must be three numbers, or one for grey pictures, not {values!r}")
            if self.colour == "grey" and len(set(values)) > 1:
                raise UserError(f"preprocessing to grey needs the same {name} for all channels, not {values!r}")
        if min(self.std) <= 0:
            raise UserError(f"preprocessing std must be positive, not {self.std!r}")
        if len(self.mean) != len(self.std):
            raise UserError(f"preprocessing mean {self.mean!r} and std {self.std!r} must have as many numbers")
        if len(self.mean) == 1:
            object.__setattr__(self, "colour", "grey")  # one channel of a coloured picture is its grey

    @property
    def channels(self) -> int:
        """Of what it makes: 1 or 3."""
        return len(self.mean)

    @property
    def resolution(self) -> int:
        """Side in pixels of what it makes. Raises UserError where that is not square or depends on the picture."""
        size = self.crop or self.resize
        if size is None:
            raise UserError("this preprocessing leaves pictures their size: no resolution is known")
        height, width = _pair(size)
        if height != width:
            raise UserError(f"pictures of {height} x {width} pixels; only square ones are supported")
        return height

    def array(self, image: Image.Image) -> np.ndarray:
        """A picture of any format and mode to (channels, H, W) float32, normalised, by Pillow and numpy alone.

        The bits are those of torchvision's transforms of pictures, which resize by Pillow too. Channels of grey may share
        memory: the array is to be read.

        Raises:
            ValueError, OSError, SyntaxError: as :func:`dynamic.pictures.upright` does.
        """
        picture, mode = upright(image), "L" if self.colour == "grey" else "RGB"
        picture = self._cropped(self._resized(picture if picture.mode == mode else picture.convert(mode)))
        pixels = np.asarray(picture, np.float32) / np.float32(255)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        if self.colour == "grey":
            return np.broadcast_to((pixels - mean[0]) / std[0], (self.channels, *pixels.shape))
        channels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        channels -= mean[:, None, None]
        channels /= std[:, None, None]
        return channels

    def __call__(self, image: Image.Image) -> Tensor:
        """:meth:`array` as a tensor, for those who go on with torch."""
        import torch

        array = self.array(image)
        return torch.from_numpy(array if self.colour == "rgb" else array[:1].copy()).expand(self.channels, -1, -1)

    def _resized(self, picture: Image.Image) -> Image.Image:
        """As torchvision has it: one number is the short side, and the long one is rounded down."""
        if self.resize is None:
            return picture
        if isinstance(self.resize, int):
            short, long = sorted(picture.size)
            sides = self.resize, int(self.resize * long / short)
            size = sides if picture.width <= picture.height else sides[::-1]
        else:
            size = self.resize[1], self.resize[0]
        return picture if picture.size == size else picture.resize(size, _RESAMPLING[self.interpolation])

    def _cropped(self, picture: Image.Image) -> Image.Image:
        """The centre, as torchvision rounds it; black beside a picture that is smaller."""
        if self.crop is None:
            return picture
        height, width = _pair(self.crop)
        if picture.size == (width, height):
            return picture
        left, top = _corner(picture.width, width), _corner(picture.height, height)
        return picture.crop((left, top, left + width, top + height))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, as :meth:`from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read it back. Raises UserError where ``content`` is something else."""
        if not isinstance(content, Mapping):
            raise UserError(f"this is no preprocessing: {content!r}")
        try:
            values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
            return cls(**values)
        except TypeError as error:
            raise UserError(f"this is no preprocessing: {error}") from error


def imagenet_preprocessing(size: int = 224) -> Preprocessing:
    """Short side to 8/7 of ``size``, the centre, ImageNet's statistics."""
    return Preprocessing(resize=size * 8 // 7, crop=size, mean=_MEAN, std=_STD, interpolation="bilinear")


def centred_preprocessing(
    size: int, mean: tuple[float, ...] = _MEAN, std: tuple[float, ...] = _STD, interpolation: str = "bilinear"
) -> Preprocessing:
    """Short side to ``size`` pixels, the centre: nothing of a square picture is cut off, as small networks want it."""
    return Preprocessing(resize=size, crop=size, mean=mean, std=std, interpolation=interpolation)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _corner(side: int, crop: int) -> int:
    """Where the centre of a side begins; negative where there is less than is wanted."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
