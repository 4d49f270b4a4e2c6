"""The slow reference: the original torchvision module with ``conv.stride`` and friends set by hand, one configuration at a time.

Written apart from ``dynamic/`` and sharing no code with it; the benchmarks time it too.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic import Configuration


class InsertZeros(nn.Module):
    """A zero after every pixel, in both directions."""

    def forward(self, x: Tensor) -> Tensor:
        spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        spread[:, :, ::2, ::2] = x
        return spread


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class ClippedPool(nn.Module):
    """A pool whose window shrinks to the feature map."""

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, stride: int) -> None:
        super().__init__()
        self.pool = pool
        pool.stride = stride
        self.kernel = pool.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        padding = self.pool.padding
        self.pool.kernel_size = min(self.kernel, x.shape[-1] + 2 * padding)
        return self.pool(x)


def replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)


def set_convolution(root: nn.Module, name: str, stride: float, dilation: int, size: int) -> None:
    conv = root.get_submodule(name)
    native = conv.kernel_size[0]
    parts: list[nn.Module] = [conv]
    if size != native:
        conv.weight = nn.Parameter(F.interpolate(conv.weight.detach(), size=(size, size), mode="bilinear"), requires_grad=False)
        parts.append(Scale(native**2 / size**2))
    conv.kernel_size, conv.dilation, conv.stride = (size, size), (dilation, dilation), (int(max(stride, 1)),) * 2
    conv.padding = (dilation * (size // 2),) * 2
    if stride == 0.5:
        parts.insert(0, InsertZeros())
    if len(parts) > 1:
        replace(root, name, nn.Sequential(*parts))


def set_pool(root: nn.Module, name: str, stride: float) -> None:
    pool = root.get_submodule(name)
    if stride == 0.5:  # a 2 x 2 window over gaps holds one pixel, so their average is that pixel
        assert isinstance(pool, nn.AvgPool2d)
        assert pool.kernel_size == 2
        replace(root, name, nn.Upsample(scale_factor=2, mode="nearest"))
    else:
        replace(root, name, ClippedPool(pool, int(stride)))


def configured(original: nn.Module, name: str, configuration: Configuration) -> nn.Module:
    """A copy of one of the paper's four networks that runs ``configuration`` and nothing else."""
    network = copy.deepcopy(original)
    options = zip(configuration.stride, configuration.dilation, configuration.kernel_size, strict=True)
    for layer, (stride, dilation, size) in enumerate(options):
        if name.startswith(("resnet", "resnext")):
            set_convolution(network, f"layer{layer + 1}.0.conv2", stride, dilation, size)
            set_convolution(network, f"layer{layer + 1}.0.downsample.0", stride, 1, 1)
        elif name.startswith("mobilenet"):
            set_convolution(network, f"features.{(2, 4, 7, 14)[layer]}.conv.1.0", stride, dilation, size)
        elif name.startswith("densenet"):
            set_pool(network, "features.pool0" if layer == 0 else f"features.transition{layer}.pool", stride)
            set_convolution(network, f"features.denseblock{layer + 1}.denselayer1.conv2", 1, dilation, size)
    return network.eval()


@torch.inference_mode()
def plain_loop(original: nn.Module, name: str, configurations: list[Configuration], images: Tensor) -> Tensor:
    """Logits (configurations, images, classes), nothing shared."""
    return torch.stack([configured(original, name, configuration)(images) for configuration in configurations])
