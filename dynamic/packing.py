"""Convolutions on a CPU whose kernels oneDNN has laid out once.

PyTorch hands oneDNN a kernel as it is stored, and oneDNN rearranges it in every call: all 94 MB of the full ResNet-50,
however few the images. Rearranged once, a batch of four takes half the time under cheap strides. Large batches gain little.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic.graphs import has_hooks

# PyTorch's compiler uses both; they are not documented, and a build without oneDNN lacks them.
_REORDER: Any = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)
_CONVOLVE: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_AVAILABLE = torch.backends.mkldnn.is_available() and _REORDER is not None and _CONVOLVE is not None

_SMALL = 2**17
"""Weights of a kernel that PyTorch's own loops are quicker with, for a single image."""


class _PackedKernel(NamedTuple):
    weight: Tensor
    version: int | None
    kernel: Tensor


class PackedConvolution:
    """Does what ``torch.nn.functional.conv2d`` does, and keeps every kernel as oneDNN wants it, a second copy of it.

    For frozen float32 kernels on a CPU; others, and PyTorch without oneDNN, take the usual way.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], _PackedKernel] = {}

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int, groups: int
    ) -> Tensor:
        """Convolve ``x`` (N, C, H, W); square options, as dynamic layers have them."""
        usual = not _AVAILABLE or torch.is_grad_enabled() or (len(x) == 1 and weight.numel() <= _SMALL)
        if usual or not _packable(x) or not _packable(weight):
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        options = [padding] * 2, [stride] * 2, [dilation] * 2
        kernel = self._kernel(weight, *options, groups)
        return _CONVOLVE(x, kernel, bias, *options, groups, "none", [], "")

    def _kernel(self, weight: Tensor, padding: list[int], stride: list[int], dilation: list[int], groups: int) -> Tensor:
        key = (weight.data_ptr(), padding[0], stride[0], dilation[0])
        version = None if weight.is_inference() else weight._version
        packed = self._kept.get(key)
        if packed is None or packed.weight is not weight or packed.version != version:
            kernel = _REORDER(weight.to_mkldnn(), padding, stride, dilation, groups)
            packed = self._kept[key] = _PackedKernel(weight, version, kernel)
        return packed.kernel


class PackedConv2d(nn.Module):
    """Stands for a convolution with square options whose kernel is frozen.

    Args:
        conv: shared, not copied.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._convolve = PackedConvolution()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (N, C, H, W)."""
        conv = self.conv
        options = conv.stride[0], int(conv.padding[0]), conv.dilation[0]
        return self._convolve(x, conv.weight, conv.bias, *options, conv.groups)

    @property
    def weight(self) -> Tensor:
        """The convolution's, for steps that read it themselves, as tied layers do."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        """The convolution's, likewise."""
        return self.conv.bias

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether it can stand for ``module``."""
        return (
            type(module) is nn.Conv2d
            and not has_hooks(module)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and all(len(set(options)) == 1 for options in (module.stride, module.padding, module.dilation))
        )


def pack(root: nn.Module) -> None:
    """Put a :class:`PackedConv2d` in the place of every convolution below ``root`` that it fits."""
    for name, module in list(root.named_modules()):
        if name and PackedConv2d.fits(module):
            assert isinstance(module, nn.Conv2d)
            root.set_submodule(name, PackedConv2d(module))


def _packable(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32
