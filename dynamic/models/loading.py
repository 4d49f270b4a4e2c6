"""Networks by name, by checkpoint, or one's own, as dynamic networks.

network = load("resnet50-slim")                          # embedded weights, 96-pixel fashion-scenes
network = load("resnet50", weights="IMAGENET1K_V1")      # torchvision's
network = load("resnet50", weights="mine.pth")           # a checkpoint; its class count is read off it
network = load("timm/resnet26", dynamic_layers=["layer3.0.conv2", "layer4.0.conv2"])
network = load("my_net.py:build", weights="best.pth", dynamic_layers=["stage2.conv", "stage3.conv"])
network = load(my_module, dynamic_layers=["stage2.conv", "stage3.conv"])
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from dynamic.errors import UserError
from dynamic.models.answers import count_classes, require_channels
from dynamic.models.checkpoints import read_checkpoint
from dynamic.models.fitting import fill, fitted
from dynamic.models.library_transforms import library_preprocessing
from dynamic.models.names import (
    DYNAMIC_LAYERS,
    SLIM,
    Built,
    build_any,
    build_timm,
    drop_auxiliary,
    embedded_names,
    embedded_weights,
    published,
    torchvision_weights,
)
from dynamic.models.neighbours import as_identity, neighbours_of
from dynamic.models.own_code import CodeName, unwrapped
from dynamic.models.presets import Pictures, assumed_of
from dynamic.network import DynamicNetwork
from dynamic.preprocessing import Preprocessing
from dynamic.scenes import CLASSES, scenes_preprocessing
from dynamic.sites import propose


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What belongs to a network beside its graph.

    Attributes:
        name: as given to :func:`load`; of a file of one's own without its folder.
        weights: which weights, for people.
        registered: name under which the package or a library has these weights; None for files, random ones, own networks.
        classes: number of classes.
        preprocessing: of the pictures it classifies.
        preset: whether that is what its library has, or what is assumed of networks of one's own.
        slim: whether it is one of the project's small stand-ins.
        own: whether it was given as a module, so that no name can build it again.
        file: Python file of one's own that makes it; None where a library or a package does.
        code: what is in it, or in the package's file; empty for a library's.
        neighbours: what that imported from beside itself; see :func:`dynamic.models.neighbours.neighbours_of`.
    """

    name: str
    weights: str
    registered: str | None
    classes: int
    preprocessing: Preprocessing
    preset: bool = True
    slim: bool
    own: bool = False
    file: Path | None = None
    code: bytes = b""
    neighbours: Mapping[str, str] = field(default_factory=dict)

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that ``preprocessing`` makes."""
        return self.preprocessing.resolution

    @property
    def library(self) -> bool:
        """Whether the project, torchvision or timm makes it."""
        return not self.own and CodeName.parse(self.name) is None


class LoadedNetwork(DynamicNetwork):
    """A dynamic network that knows where it came from; see :class:`ModelInfo`."""

    info: ModelInfo


def load(
    model: str | nn.Module,
    weights: str | Path | None = "default",
    dynamic_layers: Sequence[str] | None = None,
    classes: int | None = None,
    preprocessing: Preprocessing | Pictures | None = None,
) -> LoadedNetwork:
    """Make a dynamic network.

    Args:
        model: a slim network (:data:`dynamic.models.names.SLIM`), any torchvision classifier, any timm model
            (``timm/NAME``), a function of one's own that returns a network (``path/to/file.py:FUNCTION`` or
            ``package.module:FUNCTION``; it takes no argument, or ``classes``), or a module.
        weights: ``default`` (embedded for slim networks, IMAGENET1K_V1 for torchvision, timm's own, what a function of
            one's own returns), a torchvision weights name, a checkpoint file (.safetensors, or what
            ``torch.save(module.state_dict())`` wrote), or None for random. A name comes before a file that is called so:
            ``./NAME`` is the file. A module keeps the weights it has.
        dynamic_layers: names of one to six layers; unless given, the paper's of its four networks, and of others those that
            :func:`dynamic.sites.propose` finds, which is said on stderr.
        classes: number of classes; unless given, that of the weights.
        preprocessing: of its pictures, or what to change of the library's; unless given, the library's, or ImageNet's at
            224 pixels for a network of one's own.

    Raises:
        UserError: an unknown name, a missing, truncated or unfitting checkpoint, weights that cannot be downloaded or have
            another number of classes, an error in one's own code.

    >>> load("resnet50", weights=None).default.id
    's1-2-2-2_d1-1-1-1_k3-3-3-3'
    """
    if isinstance(model, nn.Module):
        module = unwrapped(model)
        chosen, name = _Chosen(Built(module), assumed_of(module), "as given", own=True), type(module).__name__
    else:
        code = CodeName.parse(model)
        name = model if code is None else code.short
        chosen = _chosen(model, weights, classes)
    network = _dynamic(name, chosen, dynamic_layers, preprocessing)
    if classes is not None and network.info.classes != classes:
        raise UserError(f"{name} has {network.info.classes} classes, not the {classes} asked for")
    return network


def restore(
    name: str,
    state: Mapping[str, Tensor],
    classes: int,
    dynamic_layers: Sequence[str],
    *,
    weights: str,
    preprocessing: Preprocessing,
    file: Path | None = None,
) -> LoadedNetwork:
    """A network from the tensors that were kept of it.

    Args:
        name: of the network, as for :func:`load`.
        state: every tensor by name.
        classes: how many it tells apart.
        dynamic_layers: names of its layers.
        weights: which they were, for people.
        preprocessing: of its pictures.
        file: where the Python file that makes it is now, if one does.

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
    code = CodeName.parse(name)
    moved = name if code is None or file is None else f"{file}:{code.name}"
    built = build_any(moved, classes, classes)
    drop_auxiliary(name, built.original, state)
    fill(built.original, state, f"the weights kept of {name}", name)
    chosen = _Chosen(built, _preprocessing(name, built.original, None), weights)
    return _dynamic(name, chosen, dynamic_layers, preprocessing)


def class_names(info: ModelInfo) -> tuple[str, ...]:
    """What a network's classes are called where no images tell: those of fashion-scenes, ImageNet's, or numbers."""
    if info.slim and info.classes == len(CLASSES):
        return CLASSES
    if info.classes == 1000 and not info.slim and info.library:
        weights = torchvision.models.get_model_weights("resnet50").IMAGENET1K_V1
        return tuple(weights.meta["categories"])
    return tuple(f"class {position}" for position in range(info.classes))


def identity_of(info: ModelInfo) -> dict[str, str]:
    """What decides a network's answers beside name, layers and weights, where its name does not: code and preprocessing.

    >>> identity_of(load("resnet50-slim").info)
    {}
    """
    code = as_identity(info.code, info.neighbours) if info.code else {}
    return code | ({} if info.preset else {"preprocessing": json.dumps(info.preprocessing.to_json())})


@dataclass(frozen=True)
class _Chosen:
    """A network with its weights, before it is dynamic."""

    built: Built
    preprocessing: Preprocessing
    weights: str
    registered: str | None = None
    own: bool = False


def _dynamic(
    name: str,
    chosen: _Chosen,
    dynamic_layers: Sequence[str] | None,
    preprocessing: Preprocessing | Pictures | None,
) -> LoadedNetwork:
    original, preset = chosen.built.original, chosen.preprocessing
    foreign = chosen.own or chosen.built.own_code is not None
    if isinstance(preprocessing, Pictures):
        preprocessing = preprocessing.over(preset, own=foreign)
    prepared = preset if preprocessing is None else preprocessing
    layers = dynamic_layers or DYNAMIC_LAYERS.get(name.removesuffix("-slim"))
    if layers is None:
        layers = propose(original, prepared.resolution)
        print(f"{name}: dynamic layers proposed: {','.join(layers)} (--dynamic-layers names others)", file=sys.stderr)
    network = LoadedNetwork(original, layers, resolution=prepared.resolution)
    require_channels(name, network.channels, prepared.channels)
    code = chosen.built.own_code
    network.info = ModelInfo(
        name=name,
        weights=chosen.weights,
        registered=chosen.registered,
        classes=count_classes(network, prepared.resolution),
        preprocessing=prepared,
        preset=prepared == preset,
        slim=name in SLIM,
        own=chosen.own,
        file=chosen.built.file,
        code=chosen.built.code,
        neighbours=neighbours_of(code.where) if code is not None else {},
    )
    return network


def _chosen(name: str, weights: str | Path | None, classes: int | None) -> _Chosen:
    """The network called ``name`` with the weights asked for: registered names come before files."""
    own = CodeName.parse(name) is not None
    if weights is None or (own and weights == "default"):
        built = build_any(name, classes)
        return _Chosen(built, _preprocessing(name, built.original, None), "random" if weights is None else "as built")
    if not isinstance(weights, Path) and not own:
        registered = _registered(name, weights, classes)
        if registered is not None:
            return registered
    path = Path(weights)
    if not (path.is_file() or path.suffix in (".pt", ".pth", ".safetensors", ".ckpt", ".bin")):
        found = f"; {path} is a folder" if path.is_dir() else ""
        raise UserError(f"unknown weights {str(weights)!r} for {name}{found}: {_choices(name)}")
    built = fitted(name, read_checkpoint(path), str(path), classes)
    return _Chosen(built, _preprocessing(name, built.original, path), str(path))


def _registered(name: str, weights: str, classes: int | None) -> _Chosen | None:
    """Weights that the package or a library has under this name; None where they have none."""
    if name in SLIM:
        embedded = embedded_weights(name, weights)
        if embedded is None:
            return None
        built = fitted(name, read_checkpoint(embedded), str(embedded), classes)
        return _Chosen(built, scenes_preprocessing(), f"embedded ({weights})", weights)
    if name.startswith("timm/"):
        if weights != "default":
            return None
        original = _download(name, lambda: build_timm(name.removeprefix("timm/"), True, None), "--weights FILE")
        _require_classes(f"{name} pretrained", int(getattr(original, "num_classes", 0)), classes)
        return _Chosen(Built(original), _preprocessing(name, original, None), f"{name} pretrained", weights)
    named = torchvision_weights(name)
    wanted = "IMAGENET1K_V1" if weights == "default" else weights
    if wanted not in named:
        return None
    chosen = named[wanted]
    _require_classes(str(chosen), len(chosen.meta["categories"]), classes)
    fetch = f"fetch {chosen.url} where there is a network and pass --weights FILE"
    original = _download(str(chosen), lambda: torchvision.models.get_model(name, weights=chosen), fetch)
    return _Chosen(Built(original), library_preprocessing(chosen.transforms()), str(chosen), wanted)


def _require_classes(weights: str, found: int, asked: int | None) -> None:
    if asked is not None and asked != found:
        raise UserError(
            f"{weights} has {found} classes, not the {asked} asked for: pass a checkpoint file of {asked} classes, or "
            "weights none"
        )


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
    if name.startswith("timm/") or CodeName.parse(name) is not None:
        return "use default, none, or a checkpoint file"
    return f"choose from {', '.join(torchvision_weights(name))}, none, or a checkpoint file"


def _preprocessing(name: str, original: nn.Module, path: Path | None) -> Preprocessing:
    """Of a network whose weights are random or a file's: the preset of the weights whose file this is, else the first."""
    if name in SLIM:
        return scenes_preprocessing()
    if CodeName.parse(name) is not None:
        return assumed_of(original)
    if name.startswith("timm/"):
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform

        return library_preprocessing(create_transform(**resolve_model_data_config(original)))
    preset = published(name, path) or next(iter(torchvision_weights(name).values()))
    return library_preprocessing(preset.transforms())
