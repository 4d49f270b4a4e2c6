"""Which preprocessing a network's pictures get: its library's, one from a file, or a resolution, mean and deviation."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from dynamic.errors import UserError
from dynamic.models.library_transforms import library_preprocessing
from dynamic.models.own_code import CodeName, own_object
from dynamic.preprocessing import Preprocessing, Size, imagenet_preprocessing


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What was asked for of the pictures; what is None or empty is as the network's library, or ImageNet, has it.

    Attributes:
        resolution: side in pixels.
        mean, std: of each channel, or one for all, as fractions of white.
        file: of a whole preprocessing; see :func:`read_preprocessing`. Nothing else may be given with it.

    Raises:
        UserError: values that do not go together.

    >>> preset = imagenet_preprocessing()
    >>> made = Pictures(resolution=32).over(preset)
    >>> made.resize, made.crop
    (37, 32)
    """

    resolution: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    file: str = ""

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 1:
            raise UserError(f"--resolution must be a side in pixels, not {self.resolution}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, 3):
                raise UserError(f"--{name} must be one number, or one for each channel, not {len(values)}")
        if self.file and (self.resolution, self.mean, self.std) != (None, None, None):
            raise UserError("--preprocessing says all: leave out --resolution, --mean and --std")

    @property
    def asked(self) -> bool:
        """Whether anything was asked for."""
        return self != Pictures()

    def over(self, preset: Preprocessing, *, own: bool = False) -> Preprocessing:
        """What was asked for, and the rest of ``preset``.

        Args:
            preset: of the network's library.
            own: of a network of one's own: a resolution is then the short side and the centre, without a margin.
        """
        if self.file:
            return read_preprocessing(self.file)
        made = preset
        if self.resolution is not None:
            side = self.resolution
            made = replace(made, resize=side, crop=side) if own else _scaled(made, side)
        values: dict[str, Any] = {
            "mean": _channels("mean", self.mean, made.mean),
            "std": _channels("std", self.std, made.std),
        }
        return replace(made, **values)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What was not said."""
        if self.file:
            return ()
        said = {"size": self.resolution is not None, "mean": self.mean is not None, "std": self.std is not None}
        return tuple(name for name, there in said.items() if not there)


def read_preprocessing(file: str) -> Preprocessing:
    """A preprocessing from a file.

    Args:
        file: JSON, as :meth:`dynamic.preprocessing.Preprocessing.to_json` writes it, or ``file.py:name`` of a transform of
            torchvision's or timm's kind, or of a function that returns one.

    Raises:
        UserError: no such file, or something else in it.
    """
    code = CodeName.parse(file)
    if code is not None:
        return library_preprocessing(own_object(code))
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--preprocessing {file} is neither a JSON file nor FILE.py:NAME of a transform ({error})"
        ) from error
    return Preprocessing.from_json(content)


def assumed_of(original: nn.Module) -> Preprocessing:
    """What is assumed of the pictures of a network of one's own: ImageNet's, or their mean for one channel."""
    preset = imagenet_preprocessing()
    first = next((module for module in original.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 1:
        return preset
    means: dict[str, Any] = {name: (sum(getattr(preset, name)) / 3,) for name in ("mean", "std")}
    return replace(preset, **means)


def in_words(preprocessing: Preprocessing) -> str:
    """For people.

    >>> in_words(imagenet_preprocessing())
    'short side to 256, centre 224 x 224, bilinear, mean 0.485 0.456 0.406, std 0.229 0.224 0.225'
    """
    size = preprocessing.resize
    resized = "size as it is" if size is None else f"short side to {size}" if isinstance(size, int) else f"to {_sides(size)}"
    parts = [resized] if preprocessing.crop is None else [resized, f"centre {_sides(preprocessing.crop)}"]
    for name in ("mean", "std"):
        parts.append(f"{name} {' '.join(f'{value:.4g}' for value in getattr(preprocessing, name))}")
    grey = ["grey"] if preprocessing.colour == "grey" else []
    return ", ".join([*parts[:-2], preprocessing.interpolation, *grey, *parts[-2:]])


def _scaled(preset: Preprocessing, side: int) -> Preprocessing:
    """The preset for pictures of another size: what is resized and what is cropped keep their proportion."""
    before = preset.resolution
    if preset.crop is None:
        return replace(preset, resize=side if isinstance(preset.resize, int) else (side, side))
    resize = preset.resize
    if isinstance(resize, int):
        resize = max(side, round(resize * side / before))
    elif resize is not None:
        resize = (max(side, round(resize[0] * side / before)), max(side, round(resize[1] * side / before)))
    return replace(preset, resize=resize, crop=side)


def _channels(name: str, given: tuple[float, ...] | None, preset: tuple[float, ...]) -> tuple[float, ...]:
    """One number for each channel of the preset: as given, one for all or one each, else the preset's."""
    if given is None:
        return preset
    if len(given) not in (1, len(preset)):
        raise UserError(f"--{name} has {len(given)} numbers, the network {len(preset)} channel{'s' * (len(preset) > 1)}")
    return given * (len(preset) // len(given))


def _sides(size: Size) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height} x {width}"
