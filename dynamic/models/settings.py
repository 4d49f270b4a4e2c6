"""The options that name a network and say how its pictures are prepared; every command that takes a network has them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from dynamic.attributes.registry import register_all
from dynamic.models.loading import LoadedNetwork, ModelInfo, load
from dynamic.models.names import published
from dynamic.models.own_code import CodeName
from dynamic.models.presets import Pictures, in_words
from dynamic.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network.

    Raises:
        UserError: values that do not go together.
    """

    model: str = "resnet50-slim"
    """resnet50-slim, resnext50_32x4d-slim, mobilenet_v2-slim, densenet121-slim, a torchvision model, timm/NAME, or a
    network of your own: path/to/file.py:FUNCTION or package.module:FUNCTION."""
    weights: str = "default"
    """default, none (random), a torchvision weights name such as IMAGENET1K_V1, or a checkpoint file. Of a network of your
    own, default is what the function returns."""
    dynamic_layers: str = ""
    """Comma-separated module names of one to six layers, input to output; known for the paper's four networks."""
    resolution: int | None = None
    """Side in pixels of the pictures, unless their library's (224 for a network of your own): its resizing and crop are
    scaled; for a network of your own the short side becomes this and the centre is kept."""
    mean: tuple[float, ...] | None = None
    """Of each channel, or one for all, as fractions of white, that is subtracted; unless given the library's, or
    ImageNet's."""
    std: tuple[float, ...] | None = None
    """Of each channel, or one for all, that is divided by; unless given the library's, or ImageNet's."""
    preprocessing: str = ""
    """Instead of these three: a JSON file of a preprocessing (as in a run's run.json), or FILE.py:NAME of a transform
    of torchvision or timm."""

    attributes: str = ""
    """Comma-separated Python files of attributes of your own, which spaces may then vary (docs/EXTENDING.md)."""

    def __post_init__(self) -> None:
        _ = self.pictures

    @property
    def pictures(self) -> Pictures:
        """What is asked for of the pictures."""
        return Pictures(resolution=self.resolution, mean=self.mean, std=self.std, file=self.preprocessing)

    @property
    def layers(self) -> list[str] | None:
        """The names of the dynamic layers; None where none are given."""
        return [name.strip() for name in self.dynamic_layers.split(",") if name.strip()] or None


def load_network(settings: NetworkSettings, seed: int, unless: Preprocessing | None = None) -> LoadedNetwork:
    """The network that the settings name; what was assumed of its pictures is said on stderr.

    Args:
        settings: which.
        seed: of random weights.
        unless: of the pictures, where they are known anyway: a network of one's own has it unless the settings say
            otherwise.

    Raises:
        UserError: see :func:`dynamic.models.load`.

    >>> network = load_network(NetworkSettings(model="resnet50", weights="none", resolution=96), 0)
    >>> network.info.preprocessing.resize, network.info.resolution
    (110, 96)
    """
    register_all(settings.attributes)  # first: networks take the attributes that are known when they are loaded
    torch.manual_seed(seed)
    weights = None if settings.weights == "none" else settings.weights
    pictures = settings.pictures
    known = unless if CodeName.parse(settings.model) is not None and not pictures.asked else None
    network = load(settings.model, weights, settings.layers, preprocessing=known or pictures)
    if unless is None or pictures.asked:
        _tell(network.info, pictures, Path(settings.weights))
    return network


def _tell(info: ModelInfo, asked: Pictures, weights: Path) -> None:
    """Say on stderr what pictures go through, where something of it was asked for, or assumed of weights of one's own."""
    from_file = info.library and weights.is_file() and info.registered is None and published(info.name, weights) is None
    if not asked.asked and not from_file and info.library:
        return
    line = f"pictures: {in_words(info.preprocessing)}"
    if asked.assumed and (from_file or not info.library):
        whose = f"{info.name}'s own" if info.library else "ImageNet's"
        line += f"; assumed: {', '.join(asked.assumed)} ({whose}: say others with --resolution, --mean, --std)"
    print(line, file=sys.stderr)
