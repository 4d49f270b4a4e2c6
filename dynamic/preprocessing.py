"""What a picture goes through before a network sees it, as plain data: a run keeps it, a service applies it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from dynamic.errors import UserError
from dynamic.scenes import CANVAS, MEAN, STD

_STEPS = ("Resize", "CenterCrop", "ToTensor", "Normalize")
"""Of a library's transform."""

Size = int | tuple[int, int]
"""The short side, or height and width, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Convert, resize, crop the centre, scale to [0, 1], normalise.

    Attributes:
        colour: ``grey`` makes three equal channels.
        resize: the short side, or (height, width), in pixels; None leaves the size.
        crop: side, or (height, width), of the centre that is kept, in pixels; None keeps all.
        interpolation: as torchvision names it: bilinear, bicubic, nearest, ...
        mean, std: of each channel, as fractions of white.

    Raises:
        UserError: a value out of range.

    >>> prepare = imagenet_preprocessing()
    >>> prepare(Image.new("L", (300, 200))).shape
    torch.Size([3, 224, 224])
    >>> Preprocessing.from_json(prepare.to_json()) == prepare
    True
    """

    colour: Literal["rgb", "grey"] = "rgb"
    resize: Size | None = None
    crop: Size | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.colour not in ("rgb", "grey"):
            raise UserError(f"preprocessing colour must be rgb or grey, not {self.colour!r}")
        if self.interpolation not in {mode.value for mode in InterpolationMode}:
            raise UserError(f"preprocessing interpolation {self.interpolation!r} is none of torchvision's")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            sides = size if isinstance(size, tuple) and len(size) == 2 else (size,)
            if size is not None and not all(type(side) is int and side > 0 for side in sides):
                raise UserError(f"preprocessing {name} must be pixels, one number or two, not {size!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            right = isinstance(values, tuple) and len(values) == 3
            if not right or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
                raise UserError(f"preprocessing {name} must be three numbers, not {values!r}")
            if self.colour == "grey" and len(set(values)) > 1:
                raise UserError(f"preprocessing to grey needs the same {name} for all channels, not {values!r}")
        if min(self.std) <= 0:
            raise UserError(f"preprocessing std must be positive, not {self.std!r}")

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

    def __call__(self, image: Image.Image) -> Tensor:
        """A picture of any mode to (3, H, W) float32, normalised."""
        if self.colour == "grey":
            picture = image if image.mode == "L" else image.convert("RGB").convert("L")
        else:
            picture = image.convert("RGB")
        # By hand, since a composition of seven transforms takes five times as long as these few operations.
        if self.resize is not None and picture.size != self._unchanged:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            picture = v2.functional.resize(picture, size, InterpolationMode(self.interpolation))
        if self.crop is not None and picture.size != _pair(self.crop)[::-1]:
            picture = v2.functional.center_crop(picture, list(_pair(self.crop)))
        pixels = torch.from_numpy(np.array(picture)).float().div_(255)
        if self.colour == "grey":
            return pixels.sub_(self.mean[0]).div_(self.std[0]).expand(3, -1, -1)
        channels = pixels.permute(2, 0, 1).contiguous()
        return channels.sub_(torch.tensor(self.mean)[:, None, None]).div_(torch.tensor(self.std)[:, None, None])

    @property
    def _unchanged(self) -> tuple[int, int] | None:
        """Width and height of pictures that resizing would leave as they are, where that is known."""
        if isinstance(self.resize, int):
            return self.resize, self.resize
        return None if self.resize is None else (self.resize[1], self.resize[0])

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
    return Preprocessing(
        resize=size * 8 // 7, crop=size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bilinear"
    )


def scenes_preprocessing() -> Preprocessing:
    """For the slim networks: grey, short side to 96 pixels, the centre, normalised as fashion-scenes are."""
    return Preprocessing(colour="grey", resize=CANVAS, crop=CANVAS, mean=(MEAN,) * 3, std=(STD,) * 3)


def library_preprocessing(transform: Any) -> Preprocessing:
    """The same as a library's transform: torchvision's classification preset, or a composition as timm makes it.

    Raises:
        UserError: it does something that cannot be said as plain data.
    """
    if hasattr(transform, "resize_size"):
        return Preprocessing(
            resize=_size(transform.resize_size),
            crop=_size(transform.crop_size),
            interpolation=transform.interpolation.value,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        )
    found: dict[str, Any] = {}
    steps = list(getattr(transform, "transforms", [transform]))
    names = [type(step).__name__.removeprefix("Maybe") for step in steps]
    if names != [name for name in _STEPS if name in names]:
        raise UserError(
            f"a transform of {', '.join(names)} cannot be kept as plain data: {', '.join(_STEPS)} can, in this order"
        )
    for name, step in zip(names, steps, strict=True):
        match name:
            case "Resize":
                if step.max_size is not None:
                    raise UserError("a transform that limits the long side cannot be kept as plain data")
                found |= {"resize": _size(step.size), "interpolation": step.interpolation.value}
            case "CenterCrop":
                found["crop"] = _size(step.size)
            case "Normalize":
                mean, std = (torch.as_tensor(value).tolist() for value in (step.mean, step.std))
                found |= {"mean": tuple(mean), "std": tuple(std)}
    if "mean" not in found:
        raise UserError("a transform without normalisation cannot be kept as plain data")
    return Preprocessing(**found)


def _size(size: Any) -> Size:
    """One number as it is or in a list; else height and width."""
    if isinstance(size, int):
        return size
    sides = [int(side) for side in size]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
