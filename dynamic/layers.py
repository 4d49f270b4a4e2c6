"""Convolutions and pools that are called with an option: stride, dilation, kernel size, … (paper, section 3.2).

Weights are never changed: every option is computed from the original module's own tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic.attributes.attribute import side
from dynamic.errors import UserError
from dynamic.option import KernelOptions, Option, built_option, call_under, kernel_options, kernel_under
from dynamic.packing import PackedConvolution


class DerivedKernel(NamedTuple):
    """The kernel and bias of a call, and the factor of the output that is not in them."""

    weight: Tensor
    bias: Tensor | None
    scale: float = 1.0


class DynamicConv2d(nn.Module):
    """A convolution called with an option.

    * Stride and dilation are arguments of the convolution; padding moves with the kernel's reach, which keeps it centred.
    * Kernels are what attributes make of the built one. Kernel size k: the k0 x k0 kernel interpolated bilinearly to k x k,
      the output scaled by (k0 / k)^2.
    * Stride 1/2: a transposed convolution of stride 2 with the kernel flipped and its channel axes swapped, which equals
      inserting zeros between the pixels and convolving; the output is exactly 2H x 2W.

    For torch.nn's own convolutions that pad with zeros; :mod:`dynamic.own_convolution` makes others dynamic too.

    Args:
        conv: the original module; its parameters are shared, not copied.
        fixed_bias: the bias is a folded batch norm's shift, which the kernel-size correction must not scale.

    Raises:
        UserError: a convolution that is not square.

    >>> layer = DynamicConv2d(nn.Conv2d(3, 8, 3, padding=1))
    >>> layer(torch.zeros(1, 3, 10, 10), Option(0.5, 1, 5)).shape
    torch.Size([1, 8, 20, 20])
    """

    def __init__(self, conv: nn.Conv2d, fixed_bias: bool = False) -> None:
        super().__init__()
        for field in ("kernel_size", "stride", "dilation", "padding"):
            if not isinstance(getattr(conv, field), str) and len(set(getattr(conv, field))) > 1:
                raise UserError(f"{field} {getattr(conv, field)} of {conv} differs by axis; dynamic layers must be square")
        self.conv = conv
        self.fixed_bias = fixed_bias
        self.default = built_option(conv)
        # What the original pads beyond "centred" (0 for the usual k // 2); kept under every option.
        centred = conv.dilation[0] * (conv.kernel_size[0] // 2)
        padding = {"same": centred, "valid": 0}[conv.padding] if isinstance(conv.padding, str) else int(conv.padding[0])
        self._extra_padding = padding - centred
        self._kernels: dict[tuple[KernelOptions, bool], tuple[tuple[object, ...], DerivedKernel]] = {}
        self._convolve: Callable[..., Tensor] = F.conv2d

    def forward(self, x: Tensor, option: Option) -> Tensor:
        """Convolve ``x`` (N, C, H, W) under ``option``."""
        call = call_under(option)
        weight, bias, _ = self._kernel(option, call.gaps)
        size = weight.shape[-1]
        reach = call.dilation * (size // 2)
        if call.gaps:
            return F.conv_transpose2d(x, weight, bias, 2, reach, 1, self.conv.groups, call.dilation)
        padding = reach + self._extra_padding
        if padding < 0:
            x, padding = F.pad(x, [padding] * 4), 0
        stride = call.stride
        if not self._extra_padding and size % 2:
            # A stride beyond the map makes one window, as the map's side does; oneDNN's bfloat16 weight gradients are
            # uninitialised memory there (torch 2.15 on a CPU).
            stride = min(stride, *x.shape[2:]) if x.shape[2] == x.shape[3] else stride
        return self._convolve(x, weight, bias, stride, padding, call.dilation, self.conv.groups)

    def pack(self) -> None:
        """Keep kernels as oneDNN wants them; see :mod:`dynamic.packing`."""
        self._convolve = PackedConvolution()

    def _kernel(self, option: Option, half: bool) -> DerivedKernel:
        """The kernel for an option; kept where the weights are frozen, afresh where they may change."""
        weight, bias = self.conv.weight, self.conv.bias
        changed = kernel_options(option, self.default)
        if not changed and not half:
            return DerivedKernel(weight, bias)
        if weight.requires_grad:
            return self._derive(changed, half)
        version = tuple(_version(tensor) for tensor in (weight, bias) if tensor is not None)
        cached = self._kernels.get((changed, half))
        if cached is None or cached[0] != version:
            with torch.inference_mode(False), torch.no_grad():  # so that gradients may flow to the input later
                cached = self._kernels[changed, half] = (version, self._derive(changed, half))
        return cached[1]

    def _derive(self, changed: KernelOptions, half: bool) -> DerivedKernel:
        (weight, scale), bias = kernel_under(self.conv.weight, changed), self.conv.bias
        if scale != 1:
            weight = weight * scale
            bias = bias if bias is None or self.fixed_bias else bias * scale
        if half:
            groups = self.conv.groups
            out_channels, in_channels, *sides = weight.shape
            grouped = weight.reshape(groups, out_channels // groups, in_channels, *sides).transpose(1, 2)
            weight = grouped.reshape(groups * in_channels, out_channels // groups, *sides).flip(2, 3)
        return DerivedKernel(weight.contiguous(memory_format=torch.channels_last), bias)


class DynamicPool2d(nn.Module):
    """A max or average pool called with an option, of which it takes the stride.

    A window larger than the feature map shrinks to the map. Stride 1/2 inserts a gap after every pixel and pools at stride
    1; gaps count neither for the maximum nor for the average, and the output is exactly 2H x 2W.

    Args:
        pool: the original module.
        follows: the pool is a shortcut that must make maps of the same size as the convolution beside it, ceil(H / stride):
            under other strides than its own it repeats the border where its last window needs more.

    Raises:
        UserError: a pool that is not square or has dilation.
    """

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, follows: bool = False) -> None:
        super().__init__()
        self.follows = follows
        for field in ("kernel_size", "stride", "padding"):
            if isinstance(getattr(pool, field), tuple) and len(set(getattr(pool, field))) > 1:
                raise UserError(f"{field} {getattr(pool, field)} of {pool} differs by axis; dynamic layers must be square")
        if isinstance(pool, nn.MaxPool2d) and side(pool.dilation) != 1:
            raise UserError(f"{pool} is dilated; only plain pools can be dynamic")
        self.pool = pool
        self.default = built_option(pool)

    def forward(self, x: Tensor, option: Option) -> Tensor:
        """Pool ``x`` (N, C, H, W) at ``option.stride``."""
        pool, height, width = self.pool, x.shape[2], x.shape[3]
        call = call_under(option)
        if call.gaps:
            return self._half(x)
        window, padding = self.default.kernel_size, side(pool.padding)
        kernel = (min(window, height + 2 * padding), min(window, width + 2 * padding))
        stride = call.stride
        ceil_mode = pool.ceil_mode
        if self.follows and stride != self.default.stride:
            ceil_mode = False
            right, below = (
                max((-(-pixels // stride) - 1) * stride + reach - pixels - 2 * padding, 0)
                for pixels, reach in ((width, kernel[1]), (height, kernel[0]))
            )
            x = F.pad(x, [0, right, 0, below], mode="replicate")
        if isinstance(pool, nn.MaxPool2d):
            return F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode)
        return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, pool.count_include_pad, pool.divisor_override)

    def _half(self, x: Tensor) -> Tensor:
        window = max(self.default.kernel_size, 2)  # a window of one pixel would hold only the gap
        before = window // 2
        is_max = isinstance(self.pool, nn.MaxPool2d)
        spread = x.new_full((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), float("-inf") if is_max else 0.0)
        spread[:, :, ::2, ::2] = x
        margin = [before, window - 1 - before] * 2
        if is_max:
            return F.max_pool2d(F.pad(spread, margin, value=float("-inf")), window, 1)
        present = torch.zeros_like(spread[:1, :1])
        present[:, :, ::2, ::2] = 1
        total, count = (F.avg_pool2d(F.pad(t, margin), window, 1, divisor_override=1) for t in (spread, present))
        return total / count


def _version(tensor: Tensor) -> tuple[object, ...]:
    """Changes whenever the tensor's values may have."""
    counter = None if tensor.is_inference() else tensor._version
    return counter, tensor.data_ptr(), tensor.dtype, tensor.device
