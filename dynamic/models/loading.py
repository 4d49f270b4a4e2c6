"""Networks by name: how to build them, where their dynamic layers are, their weights and transforms.

network = load("resnet50-slim")                          # embedded weights, 96-pixel fashion-scenes
network = load("resnet50", weights="IMAGENET1K_V1")      # torchvision's
network = load("resnet50", weights="mine.pth")           # a checkpoint; its class count is read off it
network = load("timm/resnet26", dynamic_layers=["layer3.0.conv2", "layer4.0.conv2"])
network = load(my_module, dynamic_layers=["stage2.conv", "stage3.conv"])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import v2

from dynamic import scenes
from dynamic.errors import UserError
from dynamic.files import ASSETS
from dynamic.models import slim
from dynamic.network import DynamicNetwork
from dynamic.sites import candidates

_RESNET_LAYERS = tuple(f"layer{stage}.0.conv2" for stage in (1, 2, 3, 4))
_DENSENET_LAYERS = (
    "features.pool0+features.denseblock1.denselayer1.conv2",
    "features.transition1.pool+features.denseblock2.denselayer1.conv2",
    "features.transition2.pool+features.denseblock3.denselayer1.conv2",
    "features.transition3.pool+features.denseblock4.denselayer1.conv2",
)

DYNAMIC_LAYERS: dict[str, tuple[str, ...]] = {
    # The 3 x 3 convolution of the first bottleneck of each stage.
    "resnet50": _RESNET_LAYERS,
    "resnext50_32x4d": _RESNET_LAYERS,
    # The depth-wise 3 x 3 of the four inverted residuals of stride 2.
    "mobilenet_v2": tuple(f"features.{block}.conv.1.0" for block in (2, 4, 7, 14)),
    # Stride: the stem's and transitions' pools; dilation and kernel size: the first dense layer behind each.
    "densenet121": _DENSENET_LAYERS,
}
"""Layers A-D of the paper's four networks (section 3.3), full size and slim."""

SLIM: dict[str, Callable[[int], nn.Module]] = {
    "resnet50-slim": slim.resnet50_slim,
    "resnext50_32x4d-slim": slim.resnext50_32x4d_slim,
    "mobilenet_v2-slim": slim.mobilenet_v2_slim,
    "densenet121-slim": slim.densenet121_slim,
}


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What belongs to a network beside its graph.

    Attributes:
        name: as given to :func:`load`.
        weights: which weights, for people.
        classes: number of classes.
        resolution: side in pixels of the images that ``transform`` makes.
        transform: PIL image to normalised (3, resolution, resolution) float32.
        slim: whether it is one of the project's small stand-ins.
    """

    name: str
    weights: str
    classes: int
    resolution: int
    transform: Callable[[Image.Image], Tensor]
    slim: bool


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
        model: a slim network (:data:`SLIM`), any torchvision classifier, any timm model (``timm/NAME``), or a module.
        weights: ``default`` (embedded for slim networks, IMAGENET1K_V1 for torchvision, timm's own), a torchvision weights
            name, a checkpoint file (.safetensors, or what ``torch.save(module.state_dict())`` wrote), or None for random.
            A module keeps the weights it has.
        dynamic_layers: names of one to six layers; needed for all but the four networks of the paper.
        classes: number of classes; unless given, that of the weights.

    Raises:
        UserError: an unknown name, a missing, truncated or unfitting checkpoint, weights that cannot be downloaded.

    >>> load("resnet50", weights=None).default.id
    's1-2-2-2_d1-1-1-1_k3-3-3-3'
    """
    if isinstance(model, nn.Module):
        name, original, transform, resolution, used = type(model).__name__, model, imagenet_transform(), 224, "as given"
    else:
        name = model
        original, transform, resolution, used = _build_with_weights(name, weights, classes)
    layers = dynamic_layers or DYNAMIC_LAYERS.get(name.removesuffix("-slim"))
    if layers is None:
        found = ", ".join(candidates(original))
        raise UserError(f"name one to six dynamic layers of {name} (--dynamic-layers a,b,c,d); candidates: {found}")
    network = LoadedNetwork(original, layers)
    network.info = ModelInfo(
        name=name,
        weights=used,
        classes=_count_classes(network, resolution),
        resolution=resolution,
        transform=transform,
        slim=name in SLIM,
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


def build(name: str, classes: int | None = None) -> nn.Module:
    """A network with random weights. Raises UserError for an unknown name, with the nearest known ones."""
    if name in SLIM:
        return SLIM[name](classes or slim.CLASSES)
    if name.startswith("timm/"):
        return _build_timm(name.removeprefix("timm/"), False, classes)
    _check_torchvision(name)
    # Inception and GoogLeNet warn unless told how to draw their initial weights.
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, num_classes=classes or 1000, **options)


def _check_torchvision(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(
            f"unknown model {name!r}: choose from {', '.join(SLIM)}, timm/NAME, or torchvision's {', '.join(known)}"
        )


def imagenet_transform(size: int = 224) -> Callable[[Image.Image], Tensor]:
    """Resize the short side to 8/7 of ``size``, crop the centre, normalise with ImageNet's statistics."""
    return v2.Compose(
        [
            v2.Lambda(_to_rgb),
            v2.Resize(size * 8 // 7),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


def scenes_transform() -> Callable[[Image.Image], Tensor]:
    """For the slim networks: grey, short side to 96 pixels, centre, normalised as fashion-scenes are."""
    return _scene


def _scene(image: Image.Image) -> Tensor:
    # By hand, since a composition of seven transforms takes five times as long as these few operations.
    grey = image if image.mode == "L" else image.convert("RGB").convert("L")
    if grey.size != (scenes.CANVAS, scenes.CANVAS):
        grey = v2.functional.center_crop(v2.functional.resize(grey, [scenes.CANVAS]), [scenes.CANVAS])
    pixels = torch.from_numpy(np.array(grey)).float().div_(255)
    return pixels.sub_(scenes.MEAN).div_(scenes.STD).expand(3, -1, -1)


_Built = tuple[nn.Module, Callable[[Image.Image], Tensor], int, str]
"""A network, its transform, the side of the images that this makes, and which weights it has, for people."""


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def embedded_weights(name: str, weights: str) -> Path | None:
    """The file of a slim network's weights: ``default``, or fine-tuned ones such as ``rof-stride``; None if none."""
    if name not in SLIM:
        return None
    path = ASSETS / (f"{name}.safetensors" if weights == "default" else f"{name}-{weights}.safetensors")
    return path if path.is_file() else None


def _build_with_weights(name: str, weights: str | Path | None, classes: int | None) -> _Built:
    path = None if weights is None else Path(weights)
    is_file = path is not None and (path.suffix in (".pt", ".pth", ".safetensors", ".ckpt", ".bin") or path.exists())
    embedded = embedded_weights(name, str(weights))
    if embedded is not None:
        path, is_file = embedded, True
    if is_file:
        assert path is not None
        original, used = _from_checkpoint(name, path, classes), f"embedded ({weights})" if embedded else str(path)
    elif weights is None:
        original, used = build(name, classes), "random"
    elif name in SLIM:
        known = ", ".join(sorted(path.stem.removeprefix(f"{name}-") for path in ASSETS.glob(f"{name}-*.safetensors")))
        others = f", {known}" if known else ""
        raise UserError(f"unknown weights {weights!r} for {name}: use default{others}, none, or a .safetensors or .pth file")
    elif name.startswith("timm/"):
        original, used = _timm_pretrained(name, str(weights), classes), f"{name} pretrained"
    else:
        return _torchvision_pretrained(name, str(weights))
    if name in SLIM:
        return original, scenes_transform(), scenes.CANVAS, used
    if name.startswith("timm/"):
        return original, *_timm_transform(original), used
    return original, *_torchvision_transform(name, path if is_file else None), used


def _torchvision_weights(name: str) -> dict[str, Any]:
    _check_torchvision(name)
    return {entry.name: entry for entry in torchvision.models.get_model_weights(name)}


def _torchvision_transform(name: str, path: Path | None) -> tuple[Callable[[Image.Image], Tensor], int]:
    """The preset of the weights whose file ``path`` is, by its name; of the model's first weights otherwise."""
    entries = list(_torchvision_weights(name).values())
    preset = next((e for e in entries if path is not None and e.url.endswith(f"/{path.name}")), entries[0]).transforms()
    return _Preset(preset), preset.crop_size[0]


def _torchvision_pretrained(name: str, weights: str) -> _Built:
    named = _torchvision_weights(name)
    chosen = named.get("IMAGENET1K_V1" if weights == "default" else weights)
    if chosen is None:
        raise UserError(
            f"unknown weights {weights!r} for {name}: choose from {', '.join(named)}, none, or a checkpoint file"
        )
    try:
        original = torchvision.models.get_model(name, weights=chosen)
    except Exception as error:  # no network, or a damaged file in the cache: torch raises many kinds
        raise UserError(
            f"cannot load {chosen} ({str(error).splitlines()[0]}): fetch {chosen.url} where there is a network and pass "
            "--weights FILE, or use --weights none for random ones"
        ) from error
    preset = chosen.transforms()
    return original, _Preset(preset), preset.crop_size[0], str(chosen)


class _Preset:
    """A library's transform behind a conversion to RGB, which photographs in other modes need."""

    def __init__(self, preset: Callable[[Image.Image], Tensor]) -> None:
        self.preset = preset

    def __call__(self, image: Image.Image) -> Tensor:
        return self.preset(image.convert("RGB"))


def _build_timm(name: str, pretrained: bool, classes: int | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"timm/{name} needs the timm package: pip install timm") from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:10]
        raise UserError(f"timm has no model {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    module: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return module


def _timm_pretrained(name: str, weights: str, classes: int | None) -> nn.Module:
    if weights != "default":
        raise UserError(f"unknown weights {weights!r} for {name}: use default, none, or a checkpoint file")
    try:
        return _build_timm(name.removeprefix("timm/"), True, classes)
    except UserError:
        raise
    except Exception as error:  # the hub client raises many kinds
        raise UserError(f"cannot download the weights of {name} ({error}): pass --weights FILE or --weights none") from error


def _timm_transform(original: nn.Module) -> tuple[Callable[[Image.Image], Tensor], int]:
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    config = resolve_model_data_config(original)
    return _Preset(create_transform(**config)), config["input_size"][-1]


def _from_checkpoint(name: str, path: Path, classes: int | None) -> nn.Module:
    stored = read_checkpoint(path)
    original = build(name, classes)
    head = _head(original)
    found = stored.get(f"{head}.weight")
    if found is not None and found.shape[0] != original.state_dict()[f"{head}.weight"].shape[0]:
        if classes is not None:
            raise UserError(f"{path} has {found.shape[0]} classes, not the {classes} asked for")
        original = build(name, found.shape[0])
    expected = original.state_dict()
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unknown:
        raise UserError(
            f"{path} is not a checkpoint of {name}: " + _listed("lacks", missing) + _listed("has unknown", unknown)
        )
    for key, tensor in stored.items():
        if tensor.shape != expected[key].shape:
            raise UserError(
                f"{path} is not a checkpoint of {name}: {key} is {tuple(tensor.shape)}, not {tuple(expected[key].shape)}"
            )
    original.load_state_dict(stored, strict=False)
    return original


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; unwraps ``state_dict``/``model`` and DistributedDataParallel's ``module.``.

    Raises:
        UserError: no such file, truncated, or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: pass an existing .safetensors or .pth file")
    try:
        stored: Any = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged file makes torch raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is truncated or not a checkpoint ({reason}): store one with torch.save(module.state_dict(), …)"
        ) from error
    for wrapper in ("state_dict", "model", "network"):
        if isinstance(stored, dict) and isinstance(stored.get(wrapper), dict):
            stored = stored[wrapper]
    if not isinstance(stored, dict) or not stored or not all(isinstance(value, Tensor) for value in stored.values()):
        raise UserError(f"{path} holds no tensors by name: store one with torch.save(module.state_dict(), …)")
    return {str(key).removeprefix("module."): value for key, value in stored.items()}


def _head(network: nn.Module) -> str:
    """Name of the last linear layer, which is the classifier in every classification network we know."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else ""


def _listed(word: str, names: list[str]) -> str:
    return f"it {word} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}; " if names else ""
