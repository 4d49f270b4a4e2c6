"""Which networks there are, by name, and where their dynamic layers are."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from dynamic.errors import UserError
from dynamic.files import ASSETS
from dynamic.models import slim
from dynamic.models.neighbours import as_identity, neighbours_of
from dynamic.models.own_code import CodeName, build_own

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

TRANSFORMING = ("googlenet", "inception_v3")
"""torchvision's networks that scale their inputs anew."""

AUXILIARY = ("aux1", "aux2", "AuxLogits")
"""Their heads for training alone, which files may have or not."""

SLIM: dict[str, Callable[[int], nn.Module]] = {
    "resnet50-slim": slim.resnet50_slim,
    "resnext50_32x4d-slim": slim.resnext50_32x4d_slim,
    "mobilenet_v2-slim": slim.mobilenet_v2_slim,
    "densenet121-slim": slim.densenet121_slim,
}


@dataclass(frozen=True)
class Built:
    """A network and where it came from.

    Attributes:
        original: the network.
        own_code: of one's own that made it.
        file: the Python file of that function; None where it is in a package.
        code: what is in that file, or in the package's.
        takes_classes: whether it can be made with another number of classes.
    """

    original: nn.Module
    own_code: CodeName | None = None
    file: Path | None = None
    code: bytes = b""
    takes_classes: bool = True


def build(name: str, classes: int | None = None) -> nn.Module:
    """A network with random weights, or what a function of one's own returns.

    Raises:
        UserError: an unknown name, with the nearest known ones, or an error in one's own code.
    """
    return build_any(name, classes).original


def build_any(name: str, classes: int | None = None, likely: int | None = None) -> Built:
    """As :func:`build`; ``likely`` is the number of classes for a function of one's own that must be told one."""
    code = CodeName.parse(name)
    if code is not None:
        own = build_own(code, classes, likely)
        return Built(own.original, code, code.file, own.code, own.takes_classes)
    if name in SLIM:
        return Built(SLIM[name](classes or slim.CLASSES))
    if name.startswith("timm/"):
        return Built(build_timm(name.removeprefix("timm/"), False, classes))
    _check_torchvision(name)
    # These two warn unless told how to draw their initial weights; all weights that torchvision has of them were trained
    # on inputs scaled anew, and a checkpoint does not tell.
    options = {"init_weights": True, "transform_input": True} if name in TRANSFORMING else {}
    return Built(torchvision.models.get_model(name, num_classes=classes or 1000, **options))


def drop_auxiliary(name: str, original: nn.Module, stored: Container[str]) -> list[str]:
    """Take from a network, in place, the auxiliary heads of which ``stored`` has no tensor; returns their names."""
    if name not in TRANSFORMING:
        return []
    heads = [head for head in AUXILIARY if getattr(original, head, None) is not None]
    lacking = [
        head for head in heads if not any(key in stored for key in original.state_dict() if key.startswith(f"{head}."))
    ]
    for head in lacking:
        setattr(original, head, None)
    if lacking == heads:
        original.aux_logits = False  # type: ignore[assignment]
    return lacking


def known(name: str) -> bool:
    """Whether the project, torchvision or timm has a network of this name.

    >>> known("resnet50-slim"), known("resnet50"), known("runs/mine")
    (True, True, False)
    """
    return name in SLIM or name.startswith("timm/") or name in torchvision.models.list_models(module=torchvision.models)


def code_identity(model: str) -> dict[str, str]:
    """Name without its folder, and digests of its file and of what that imported, of a network of one's own that was built;
    nothing of any other."""
    code = CodeName.parse(model)
    if code is None or code.file is None:
        return {}
    return {"model": code.short, **as_identity(code.file.read_bytes(), neighbours_of(code.file))}


def folder_name(model: str) -> str:
    """A model's name as the name of a folder.

    >>> folder_name("timm/resnet26"), folder_name("nets/my_net.py:build")
    ('timm-resnet26', 'my_net-build')
    """
    code = CodeName.parse(model)
    return model.replace("/", "-") if code is None else code.short.replace(".py:", "-").replace(":", "-")


def embedded_weights(name: str, weights: str) -> Path | None:
    """The file of a slim network's weights: ``default``, or fine-tuned ones such as ``rof-stride``; None if none."""
    if name not in SLIM:
        return None
    path = ASSETS / (f"{name}.safetensors" if weights == "default" else f"{name}-{weights}.safetensors")
    return path if path.is_file() else None


def embedded_names(name: str) -> list[str]:
    """The names of a slim network's weights beside ``default``."""
    return sorted(path.stem.removeprefix(f"{name}-") for path in ASSETS.glob(f"{name}-*.safetensors"))


def torchvision_weights(name: str) -> dict[str, Any]:
    """The weights torchvision has for a network, by name."""
    _check_torchvision(name)
    return {entry.name: entry for entry in torchvision.models.get_model_weights(name)}


def published(name: str, path: Path | None) -> Any:
    """The weights of torchvision's whose file has this name; None where there are none."""
    found = (
        []
        if path is None or not known(name) or name in SLIM or name.startswith("timm/")
        else torchvision_weights(name).values()
    )
    return next((entry for entry in found if path is not None and entry.url.endswith(f"/{path.name}")), None)


def _check_torchvision(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(
            f"unknown model {name!r}: choose from {', '.join(SLIM)}, timm/NAME, a network of your own as "
            f"path/to/file.py:FUNCTION, or torchvision's {', '.join(known)}"
        )


def build_timm(name: str, pretrained: bool, classes: int | None) -> nn.Module:
    """A network of timm's. Raises UserError where timm is not installed or has none of this name."""
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
