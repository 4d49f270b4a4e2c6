"""Convolutions that do something of their own: subclasses of torch.nn's, other padding modes.

TensorFlow's "same" padding, static padding, weight standardisation: what such a module computes is in its ``forward``. Its
options are its attributes, so a dynamic layer of it is *its own forward under changed attributes*.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dynamic.attributes.attribute import Call
from dynamic.errors import DoesNotFitError, UserError
from dynamic.layers import DerivedKernel, DynamicConv2d
from dynamic.option import KernelOptions, Option, call_under, kernel_under
from dynamic.shapes import COMPUTED, meta_copy, on_meta


def dynamic_convolution(conv: nn.Conv2d, fixed_bias: bool = False) -> DynamicConv2d:
    """The dynamic layer of any convolution.

    Args:
        conv: the original module; its parameters are shared, not copied.
        fixed_bias: as for :class:`~dynamic.layers.DynamicConv2d`; of a plain one.

    Raises:
        UserError: a convolution that is not square, or one whose weight a hook computes.

    >>> type(dynamic_convolution(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"))).__name__
    'OwnConv2d'
    """
    return DynamicConv2d(conv, fixed_bias) if is_plain(conv) else OwnConv2d(conv)


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is torch.nn's own, on a border of zeros that is as wide on all sides."""
    lopsided = conv.padding == "same" and conv.kernel_size[0] % 2 == 0
    return _class_of(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not lopsided


def check_weight(module: nn.Module, name: str) -> None:
    """Raise UserError where the weight of a convolution is no parameter, but what a hook computes."""
    kept = "weight" in module._parameters or parametrize.is_parametrized(module, "weight")
    if isinstance(module, nn.Conv2d) and not kept:
        raise UserError(f"the weight of {name} is {COMPUTED}")


class OwnConv2d(DynamicConv2d):
    """A convolution called with an option, by the module's own forward.

    * ``stride``, ``dilation`` and ``kernel_size`` of a shallow copy are set, and its forward is called. Its ``weight`` is
      what attributes make of the kernel, as for plain convolutions; the output, bias included, is scaled by (k0 / k)^2.
    * ``padding`` moves with the kernel's reach, as for plain convolutions, unless the module pads by itself for the kernel
      at hand: where a larger kernel leaves the size of the output as it is, ``padding`` is left alone.
    * Stride 1/2: zeros between the pixels, then the forward at stride 1; the output must be exactly 2H x 2W.

    Args:
        conv: the original module; its parameters are shared, not copied.

    Raises:
        UserError: a convolution that is not square, or one whose weight a hook computes.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        check_weight(conv, str(conv))
        self._pads_itself = _pads_itself(conv)

    def forward(self, x: Tensor, option: Option) -> Tensor:
        """Convolve ``x`` (N, C, H, W) under ``option``.

        Raises:
            DoesNotFitError: stride 1/2 where the module's own padding makes something else than 2H x 2W.
        """
        if option == self.default:
            made: Tensor = self.conv(x)
            return made
        call = call_under(option)
        weight, _, scale = self._kernel(option, False)
        padding = None
        if not self._pads_itself:
            padding = call.dilation * (weight.shape[-1] // 2) + (0 if call.gaps else self._extra_padding)
        if call.gaps:
            x = _with_gaps(x)
        if padding is not None and padding < 0:
            x, padding = F.pad(x, [padding] * 4), 0
        made = _changed(self.conv, weight, call, padding)(x)
        if call.gaps and made.shape[2:] != x.shape[2:]:
            raise DoesNotFitError(
                f"at stride 1/2 a {_class_of(self.conv).__name__} of kernel {weight.shape[-1]} makes "
                f"{made.shape[2]} x {made.shape[3]} of {x.shape[2] // 2} x {x.shape[3] // 2} pixels, not twice as many: "
                "leave 0.5 out of this layer's strides"
            )
        return made if scale == 1 else made * scale

    def pack(self) -> None:
        """Stay as it is: what its forward calls is its own business."""

    def _derive(self, changed: KernelOptions, half: bool) -> DerivedKernel:
        weight, scale = kernel_under(self.conv.weight, changed)
        return DerivedKernel(weight.contiguous(memory_format=torch.channels_last), self.conv.bias, scale)


def _changed(conv: nn.Conv2d, weight: Tensor, call: Call, padding: int | None) -> nn.Conv2d:
    """A shallow copy of ``conv`` under other options; ``padding`` None leaves its own."""
    kind = _class_of(conv)
    changed = kind.__new__(kind)  # copy.copy refuses parametrised modules
    changed.__dict__.update(conv.__dict__, _parameters={**conv._parameters, "weight": weight})
    changed.kernel_size = (weight.shape[2], weight.shape[3])
    changed.stride, changed.dilation = (call.stride,) * 2, (call.dilation,) * 2
    if padding is not None:
        changed.padding = (padding, padding)
        changed._reversed_padding_repeated_twice = [padding] * 4
    return changed


def _class_of(conv: nn.Conv2d) -> type[nn.Conv2d]:
    """The module's class; a parametrised module is of a class made for it alone, on top of its own."""
    kind = type(conv)
    return kind.__bases__[0] if parametrize.is_parametrized(conv) else kind


def _with_gaps(x: Tensor) -> Tensor:
    """A zero after every pixel, in both directions."""
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[:, :, ::2, ::2] = x
    return spread


def _pads_itself(conv: nn.Conv2d) -> bool:
    """Whether a larger kernel makes an output of the same size, though ``padding`` stays."""
    try:
        model = meta_copy(conv)
        size = conv.kernel_size[0]
        x = torch.empty(1, conv.in_channels, 8 * size, 8 * size, device="meta", dtype=conv.weight.dtype)
        sides = []
        for side in (size, size + 2):
            weight = torch.empty(*conv.weight.shape[:2], side, side, device="meta", dtype=conv.weight.dtype)
            changed = _changed(model, weight, Call(), None)
            with torch.no_grad():
                sides.append(on_meta(partial(changed, x)).shape[2])
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the forward of {conv} does not run with a larger kernel: {reason}") from error
    return sides[0] == sides[1]
