"""What a picture goes through before a network sees it, as plain data: a run keeps it, a service applies it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from dynamic.errors import UserError
from dynamic.pictures import upright
from dynamic.scenes import CANVAS, MEAN, STD

_STEPS = ("Grayscale", "Resize", "CenterCrop", "ToTensor", "Normalize")
"""Of a library's transform."""

_TO_TENSOR = ("PILToTensor", "ToImage", "ConvertImageDtype", "ToDtype")
"""Steps that together do what ToTensor does."""

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
        if self.interpolation not in {mode.value for mode in InterpolationMode}:
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

    def __call__(self, image: Image.Image) -> Tensor:
        """A picture of any format and mode to (channels, H, W) float32, normalised; raises as :func:`upright` does."""
        picture, mode = upright(image), "L" if self.colour == "grey" else "RGB"
        picture = picture if picture.mode == mode else picture.convert(mode)
        # By hand, since a composition of seven transforms takes five times as long as these few operations.
        if self.resize is not None and picture.size != self._unchanged:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            picture = v2.functional.resize(picture, size, InterpolationMode(self.interpolation))
        if self.crop is not None and picture.size != _pair(self.crop)[::-1]:
            picture = v2.functional.center_crop(picture, list(_pair(self.crop)))
        pixels = torch.from_numpy(np.array(picture)).float().div_(255)
        if self.colour == "grey":
            return pixels.sub_(self.mean[0]).div_(self.std[0]).expand(self.channels, -1, -1)
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
    return Preprocessing(resize=size * 8 // 7, crop=size, mean=_MEAN, std=_STD, interpolation="bilinear")


def centred_preprocessing(
    size: int, mean: tuple[float, ...] = _MEAN, std: tuple[float, ...] = _STD, interpolation: str = "bilinear"
) -> Preprocessing:
    """Short side to ``size`` pixels, the centre: nothing of a square picture is cut off, as small networks want it."""
    return Preprocessing(resize=size, crop=size, mean=mean, std=std, interpolation=interpolation)


def scenes_preprocessing(channels: int = 3) -> Preprocessing:
    """For the slim networks: grey, short side to 96 pixels, the centre, normalised as fashion-scenes are."""
    return Preprocessing(colour="grey", resize=CANVAS, crop=CANVAS, mean=(MEAN,) * channels, std=(STD,) * channels)


def library_preprocessing(transform: Any) -> Preprocessing:
    """The same as a library's transform: torchvision's classification preset, or a composition of these steps in this order.

    ``Grayscale``, ``Resize``, ``CenterCrop``, ``ToTensor`` (or ``ToImage`` or ``PILToTensor``, and ``ToDtype`` or
    ``ConvertImageDtype`` to float32), ``Normalize``, as torchvision and timm make them; each may be missing but the last.

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
    grey = 0  # channels that are made of grey pictures
    nested = getattr(transform, "transforms", transform if isinstance(transform, nn.Sequential) else [transform])
    names = [_name(step) for step in nested]
    # Making numbers of pixels may take two steps.
    known = [name for at, name in enumerate(names) if name != "ToTensor" or names[at - 1 : at] != [name]]
    if known != [name for name in _STEPS if name in names]:
        written = ", ".join(type(step).__name__.removeprefix("Maybe") for step in nested)
        raise UserError(f"a transform of {written} cannot be kept as plain data: {', '.join(_STEPS)} can, in this order")
    for name, step in zip(names, nested, strict=True):
        match name:
            case "Grayscale":
                grey = step.num_output_channels
            case "Resize":
                if step.max_size is not None:
                    raise UserError("a transform that limits the long side cannot be kept as plain data")
                found |= {"resize": _size(step.size), "interpolation": _interpolation(step.interpolation)}
            case "CenterCrop":
                found["crop"] = _size(step.size)
            case "Normalize":
                mean, std = (torch.as_tensor(value).flatten().tolist() for value in (step.mean, step.std))
                # One number normalises every channel that there is.
                wanted = grey or max(len(mean), len(std), 3)
                mean, std = (value * wanted if len(value) == 1 else value for value in (mean, std))
                found |= {"mean": tuple(mean), "std": tuple(std)}
    if "mean" not in found:
        raise UserError("a transform without normalisation cannot be kept as plain data")
    return Preprocessing(**found, colour="grey" if grey else "rgb")


def _name(step: Any) -> str:
    """Of a step, as :data:`_STEPS` names it."""
    name = type(step).__name__.removeprefix("Maybe")
    if name == "ToDtype" and not (step.scale and step.dtype == torch.float32):
        raise UserError(
            "a transform with ToDtype other than ToDtype(torch.float32, scale=True) cannot be kept as plain data"
        )
    if name == "ConvertImageDtype" and step.dtype != torch.float32:
        raise UserError("a transform with ConvertImageDtype other than to float32 cannot be kept as plain data")
    return "ToTensor" if name in _TO_TENSOR else name


def _interpolation(given: Any) -> str:
    """Torchvision's name of an interpolation that is given by it, as its enumeration has it, or by Pillow's number."""
    if isinstance(given, int):
        return Image.Resampling(given).name.lower()
    return str(given.value) if isinstance(given, InterpolationMode) else str(given)


def _size(size: Any) -> Size:
    """One number as it is or in a list; else height and width."""
    if isinstance(size, int):
        return size
    sides = [int(side) for side in size]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
