"""Which known network a file's tensors are of, to say it where they do not fit the one asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from dynamic.models.names import DYNAMIC_LAYERS, SLIM, build

_KNOWN = (
    *SLIM,
    *DYNAMIC_LAYERS,
    *("resnet18", "resnet34", "resnet101", "resnet152", "wide_resnet50_2", "resnext101_32x8d"),
    *("vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "alexnet", "squeezenet1_0", "squeezenet1_1"),
    *("densenet169", "densenet201", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "shufflenet_v2_x1_0"),
)


def seems_to_be(stored: Mapping[str, Tensor]) -> str | None:
    """The first known network whose names and shapes, but for the number of classes, are those of the tensors.

    >>> seems_to_be(build("resnet18", 7).state_dict())
    'resnet18'
    """
    theirs = _shapes({key.removeprefix("module.").removeprefix("model."): value for key, value in stored.items()})
    for name in _KNOWN:
        ours = _known(name)
        # The head's two tensors may have another number of classes.
        if ours.keys() == theirs.keys() and len(ours.items() - theirs.items()) <= 2:
            return name
    return None


@cache
def _known(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return _shapes(build(name).state_dict())


def _shapes(stored: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in stored.items() if not key.endswith("num_batches_tracked")}
