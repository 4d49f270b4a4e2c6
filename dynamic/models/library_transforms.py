"""Transforms of torchvision and timm, said as plain data: :class:`dynamic.preprocessing.Preprocessing`."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode

from dynamic.errors import UserError
from dynamic.preprocessing import Preprocessing, Size

_STEPS = ("Grayscale", "Resize", "CenterCrop", "ToTensor", "Normalize")
"""Of a library's transform."""

_TO_TENSOR = ("PILToTensor", "ToImage", "ConvertImageDtype", "ToDtype")
"""Steps that together do what ToTensor does."""


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
