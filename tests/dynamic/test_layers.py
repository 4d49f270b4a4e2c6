from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dynamic import UserError
from dynamic.layers import DynamicConv2d, DynamicPool2d
from dynamic.option import Option
from tests.plain_loop import InsertZeros


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("dilation", [1, 3])
def test_half_stride_equals_zero_insertion_then_convolution(groups: int, size: int, dilation: int) -> None:
    conv = nn.Conv2d(8, 16, 3, padding=1, groups=groups, bias=False).double()
    x = torch.randn(2, 8, 7, 5, dtype=torch.float64)
    with torch.no_grad():
        weight = conv.weight if size == 3 else F.interpolate(conv.weight, size=(size, size), mode="bilinear")
        expected = F.conv2d(InsertZeros()(x), weight, padding=dilation * (size // 2), dilation=dilation, groups=groups)
        got = DynamicConv2d(conv)(x, Option(0.5, dilation, size))
    assert got.shape == (2, 16, 14, 10)
    torch.testing.assert_close(got, expected * 9 / size**2)


@pytest.mark.parametrize("size", [1, 5, 7, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_size_equals_interpolation_and_scales_the_output(size: int, dtype: torch.dtype) -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, stride=2).to(dtype)
    x = torch.randn(2, 4, 9, 9, dtype=dtype)
    with torch.no_grad():
        weight = F.interpolate(conv.weight, size=(size, size), mode="bilinear")
        expected = F.conv2d(x, weight, conv.bias, stride=2, padding=size // 2) * 9 / size**2
        torch.testing.assert_close(DynamicConv2d(conv)(x, Option(2, 1, size)), expected)


def test_a_kernel_of_one_is_the_centre_pixel() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    weight = DynamicConv2d(conv)._derive((("kernel_size", 1),), False).weight
    torch.testing.assert_close(weight, 9 * conv.weight[:, :, 1:2, 1:2])


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_native_padding_is_kept_and_the_kernel_stays_centred(padding: int) -> None:
    conv = nn.Conv2d(2, 2, 3, padding=padding, bias=False)
    x = torch.randn(1, 2, 11, 11)
    with torch.no_grad():
        assert torch.equal(DynamicConv2d(conv)(x, Option(1, 1, 3)), conv(x))
        for option in (Option(1, 2, 3), Option(1, 1, 1), Option(1, 1, 7)):
            assert DynamicConv2d(conv)(x, option).shape == conv(x).shape


def test_kernels_follow_the_weights() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    layer, x = DynamicConv2d(conv), torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        before = layer(x, Option(1, 1, 5))
        conv.weight.mul_(2)
        conv.bias.mul_(2)
        torch.testing.assert_close(layer(x, Option(1, 1, 5)), 2 * before)
        torch.testing.assert_close(layer.double()(x.double(), Option(1, 1, 5)), 2 * before.double(), atol=1e-6, rtol=1e-5)


def test_gradients_reach_the_original_weights() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    layer, x = DynamicConv2d(conv), torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        layer(x, Option(0.5, 1, 5))  # what inference cached must not be used
    layer(x, Option(0.5, 1, 5)).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_pools_take_the_stride(stride: int) -> None:
    x = torch.randn(2, 3, 12, 12)
    for pool in (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2)):
        expected = type(pool)(pool.kernel_size, stride, pool.padding)(x)
        assert torch.equal(DynamicPool2d(pool)(x, Option(stride, 1, 1)), expected)


def test_pool_windows_shrink_to_the_map() -> None:
    assert DynamicPool2d(nn.AvgPool2d(2, 2))(torch.ones(1, 1, 1, 1), Option(2, 1, 2)).item() == 1


def test_half_stride_pools_ignore_the_gaps() -> None:
    x = torch.tensor([[[[-1.0, -2.0], [-3.0, -4.0]]]])
    average = DynamicPool2d(nn.AvgPool2d(2, 2))(x, Option(0.5, 1, 2))
    assert torch.equal(average, F.interpolate(x, scale_factor=2, mode="nearest"))
    maximum = DynamicPool2d(nn.MaxPool2d(3, 2, 1))(x, Option(0.5, 1, 3))
    # Rows and columns between two pixels see both; the outermost see the last pixel alone.
    expected = torch.tensor([[-1, -1, -2, -2], [-1, -1, -2, -2], [-3, -3, -4, -4], [-3, -3, -4, -4]])
    assert torch.equal(maximum[0, 0], expected.float())


@pytest.mark.parametrize("conv", [nn.Conv2d(2, 2, (3, 1)), nn.Conv2d(2, 2, 3, padding=(1, 0))])
def test_convolutions_that_are_not_square_are_refused(conv: nn.Conv2d) -> None:
    with pytest.raises(UserError, match="differs by axis"):
        DynamicConv2d(conv)


@pytest.mark.parametrize(("text", "number"), [("same", 2), ("valid", 0)])
def test_padding_given_as_text_is_its_number(text: str, number: int) -> None:
    named = nn.Conv2d(2, 2, 5, padding=text)
    counted = nn.Conv2d(2, 2, 5, padding=number)
    counted.load_state_dict(named.state_dict())
    x = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        assert torch.equal(DynamicConv2d(named)(x, Option(1, 1, 5)), named(x))
        for option in (Option(2, 1, 5), Option(1, 2, 3), Option(0.5, 1, 7)):
            assert torch.equal(DynamicConv2d(named)(x, option), DynamicConv2d(counted)(x, option))


@pytest.mark.parametrize(("side", "stride"), [(2, 3), (2, 4), (3, 4)])
def test_bfloat16_gradients_where_a_stride_exceeds_the_map(side: int, stride: int) -> None:
    """oneDNN leaves these weight gradients uninitialised; see DynamicConv2d.forward."""
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    module, images = DynamicConv2d(conv), torch.randn(8, 16, side, side)
    gradients = []
    for enabled in (False, True):
        junk = [torch.full((2**size,), 1e30) for size in range(8, 14) for _ in range(8)]
        del junk
        conv.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            made = module(images, Option(stride, 1, 3))
        assert made.shape[2:] == (1, 1)
        made.float().square().sum().backward()
        assert conv.weight.grad is not None
        gradients.append(conv.weight.grad.clone())
    assert (gradients[1] - gradients[0]).abs().max() < 0.05 * gradients[0].abs().max()
