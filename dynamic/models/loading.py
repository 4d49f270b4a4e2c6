"""Networks by name, by checkpoint, or one's own, as dynamic networks.

network = load("resnet50-slim")                          # embedded weights, 96-pixel fashion-scenes
network = load("resnet50", weights="IMAGENET1K_V1")      # torchvision's
network = load("resnet50", weights="mine.pth")           # a checkpoint; its class count is read off it
network = load("timm/resnet26", dynamic_layers=["layer3.0.conv2", "layer4.0.conv2"])
network = load(my_module, dynamic_layers=["stage2.conv", "stage3.conv"])
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.models.checkpoints import fill, from_checkpoint
from dynamic.models.names import (
    DYNAMIC_LAYERS,
    SLIM,
    build,
    build_timm,
    embedded_names,
    embedded_weights,
    torchvision_weights,
)
from dynamic.network import DynamicNetwork
from dynamic.preprocessing import Preprocessing, imagenet_preprocessing, library_preprocessing, scenes_preprocessing
from dynamic.scenes import CLASSES
from dynamic.sites import propose


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What belongs to a network beside its graph.

    Attributes:
        name: as given to :func:`load`.
        weights: which weights, for people.
        registered: name under which the package or a library has these weights; None for files, random ones, own modules.
        classes: number of classes.
        preprocessing: of the pictures it classifies.
        slim: whether it is one of the project's small stand-ins.
        own: whether it was given as a module, so that no name can build it again.
    """

    name: str
    weights: str
    registered: str | None
    classes: int
    preprocessing: Preprocessing
    slim: bool
    own: bool = False

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that ``preprocessing`` makes."""
        return self.preprocessing.resolution


class LoadedNetwork(DynamicNetwork):
    """A dynamic network that knows where it came from; see :class:`ModelInfo`."""

    info: ModelInfo


def load(
    model: str | nn.Module,
    weights: str | Path | None = "default",
    dynamic_layers: Sequence[str] | None = None,
    classes: int | None = None,
) -> LoadedNetwork:
    """Make a dynamic network.

    Args:
        model: a slim network (:data:`dynamic.models.names.SLIM`), any torchvision classifier, any timm model
            (``timm/NAME``), or a module.
        weights: ``default`` (embedded for slim networks, IMAGENET1K_V1 for torchvision, timm's own), a torchvision weights
            name, a checkpoint file (.safetensors, or what ``torch.save(module.state_dict())`` wrote), or None for random.
            A name comes before a file that is called so: ``./NAME`` is the file. A module keeps the weights it has.
        dynamic_layers: names of one to six layers; unless given, the paper's of its four networks, and of others those that
            :func:`dynamic.sites.propose` finds, which is said on stderr.
        classes: number of classes; unless given, that of the weights.

    Raises:
        UserError: an unknown name, a missing, truncated or unfitting checkpoint, weights that cannot be downloaded.

    >>> load("resnet50", weights=None).default.id
    's1-2-2-2_d1-1-1-1_k3-3-3-3'
    """
    if isinstance(model, nn.Module):
        built = _Built(model, imagenet_preprocessing(), "as given", own=True)
        name = type(model).__name__
    else:
        built, name = _built(model, weights, classes), model
    return _dynamic(name, built, dynamic_layers)


def restore(
    name: str,
    state: Mapping[str, Tensor],
    classes: int,
    dynamic_layers: Sequence[str],
    *,
    weights: str,
    preprocessing: Preprocessing,
) -> LoadedNetwork:
    """A network from the tensors that were kept of it.

    Args:
        name: of the network, as for :func:`load`.
        state: every tensor by name.
        classes: how many it tells apart.
        dynamic_layers: names of its layers.
        weights: which they were, for people.
        preprocessing: of its pictures.

    Raises:
        UserError: an unknown name, or tensors that do not fit it.

    >>> network = load("resnet50-slim")
    >>> kept, info = network.original.state_dict(), network.info
    >>> again = restore(
    ...     "resnet50-slim", kept, 10, network.dynamic_layers, weights=info.weights, preprocessing=info.preprocessing
    ... )
    >>> again.digest == network.digest
    True
    """
    original = build(name, classes)
    fill(original, state, f"the weights kept of {name}", name)
    return _dynamic(name, _Built(original, preprocessing, weights), dynamic_layers)


def class_names(info: ModelInfo) -> tuple[str, ...]:
    """What a network's classes are called where no images tell: those of fashion-scenes, ImageNet's, or numbers."""
    if info.slim and info.classes == len(CLASSES):
        return CLASSES
    if info.classes == 1000 and not info.slim:
        weights = torchvision.models.get_model_weights("resnet50").IMAGENET1K_V1
        return tuple(weights.meta["categories"])
    return tuple(f"class {position}" for position in range(info.classes))


@dataclass(frozen=True)
class _Built:
    """A network with its weights, before it is dynamic."""

    original: nn.Module
    preprocessing: Preprocessing
    weights: str
    registered: str | None = None
    own: bool = False


def _dynamic(name: str, built: _Built, dynamic_layers: Sequence[str] | None) -> LoadedNetwork:
    layers = dynamic_layers or DYNAMIC_LAYERS.get(name.removesuffix("-slim"))
    if layers is None:
        layers = propose(built.original, built.preprocessing.resolution)
        print(f"{name}: dynamic layers proposed: {','.join(layers)} (--dynamic-layers names others)", file=sys.stderr)
    network = LoadedNetwork(built.original, layers, resolution=built.preprocessing.resolution)
    network.info = ModelInfo(
        name=name,
        weights=built.weights,
        registered=built.registered,
        classes=_count_classes(network, built.preprocessing.resolution),
        preprocessing=built.preprocessing,
        slim=name in SLIM,
        own=built.own,
    )
    return network


def _count_classes(network: DynamicNetwork, resolution: int) -> int:
    try:
        return network.costs.classes(resolution)
    except UserError:  # a module for images of another size
        heads = [module for module in network.original.modules() if isinstance(module, nn.Linear)]
        if not heads:
            raise
        return heads[-1].out_features


def _built(name: str, weights: str | Path | None, classes: int | None) -> _Built:
    """The network called ``name`` with the weights asked for: registered names come before files."""
    if weights is None:
        original = build(name, classes)
        return _Built(original, _preprocessing(name, original, None), "random")
    if not isinstance(weights, Path):
        registered = _registered(name, weights, classes)
        if registered is not None:
            return registered
    path = Path(weights)
    if not (path.is_file() or path.suffix in (".pt", ".pth", ".safetensors", ".ckpt", ".bin")):
        found = f"; {path} is a folder" if path.is_dir() else ""
        raise UserError(f"unknown weights {str(weights)!r} for {name}{found}: {_choices(name)}")
    original = from_checkpoint(name, path, classes)
    return _Built(original, _preprocessing(name, original, path), str(path))


def _registered(name: str, weights: str, classes: int | None) -> _Built | None:
    """Weights that the package or a library has under this name; None where they have none."""
    if name in SLIM:
        embedded = embedded_weights(name, weights)
        if embedded is None:
            return None
        original = from_checkpoint(name, embedded, classes)
        return _Built(original, scenes_preprocessing(), f"embedded ({weights})", weights)
    if name.startswith("timm/"):
        if weights != "default":
            return None
        original = _download(name, lambda: build_timm(name.removeprefix("timm/"), True, classes), "--weights FILE")
        return _Built(original, _preprocessing(name, original, None), f"{name} pretrained", weights)
    named = torchvision_weights(name)
    wanted = "IMAGENET1K_V1" if weights == "default" else weights
    if wanted not in named:
        return None
    chosen = named[wanted]
    fetch = f"fetch {chosen.url} where there is a network and pass --weights FILE"
    original = _download(str(chosen), lambda: torchvision.models.get_model(name, weights=chosen), fetch)
    return _Built(original, library_preprocessing(chosen.transforms()), str(chosen), wanted)


def _download(what: str, get: Any, instead: str) -> nn.Module:
    try:
        module: nn.Module = get()
    except UserError:
        raise
    except Exception as error:  # no network, or a damaged file in the cache: the libraries raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot load {what} ({reason}): {instead}, or use --weights none for random ones") from error
    return module


def _choices(name: str) -> str:
    if name in SLIM:
        others = "".join(f", {known}" for known in embedded_names(name))
        return f"use default{others}, none, or a .safetensors or .pth file"
    if name.startswith("timm/"):
        return "use default, none, or a checkpoint file"
    return f"choose from {', '.join(torchvision_weights(name))}, none, or a checkpoint file"


def _preprocessing(name: str, original: nn.Module, path: Path | None) -> Preprocessing:
    """Of a network whose weights are random or a file's: the preset of the weights whose file this is, else the first."""
    if name in SLIM:
        return scenes_preprocessing()
    if name.startswith("timm/"):
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform

        return library_preprocessing(create_transform(**resolve_model_data_config(original)))
    entries = list(torchvision_weights(name).values())
    preset = next((e for e in entries if path is not None and e.url.endswith(f"/{path.name}")), entries[0])
    return library_preprocessing(preset.transforms())
