from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynamic
from dynamic import DynamicNetwork
from dynamic.packing import _AVAILABLE, PackedConv2d, PackedConvolution, pack
from tests.dynamic.test_network import SPACES, sample
from tests.plain_loop import plain_loop

packs = pytest.mark.skipif(not _AVAILABLE, reason="PyTorch without oneDNN packs nothing")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("count", [1, 3])
def test_a_packed_network_equals_the_plain_loop(slim_network: tuple[str, DynamicNetwork], space: str, count: int) -> None:
    name, network = slim_network
    packed = network.for_inference(packed=True)
    images = torch.randn(count, 3, 64, 64)
    configurations = sample(space, network, 3)
    expected = plain_loop(network.original, name, configurations, images)
    with torch.inference_mode():
        for _ in range(2):  # kernels just laid out, and kept ones
            for configuration, logits in zip(configurations, expected, strict=True):
                for batch in (images, images.contiguous(memory_format=torch.channels_last)):
                    torch.testing.assert_close(packed(batch, configuration), logits, atol=2e-3, rtol=2e-3)


@packs
def test_every_convolution_is_laid_out_once(slim_network: tuple[str, DynamicNetwork]) -> None:
    _, network = slim_network
    packed = network.for_inference(packed=True)
    assert not any(type(m) is nn.Conv2d for s in packed.program.segments for m in s.module.children())
    with torch.inference_mode():
        packed(torch.randn(2, 3, 64, 64), packed.default)
        held = [m._convolve._kept for m in packed.modules() if isinstance(m, PackedConv2d)]
        kernels = [kernel for kept in held for kernel in kept.values()]
        packed(torch.randn(5, 3, 96, 96), packed.default)
    assert len(held) > 20
    assert all(len(kept) == 1 for kept in held)
    again = [kernel for kept in held for kernel in kept.values()]
    assert all(a is b for a, b in zip(kernels, again, strict=True))


@packs
def test_a_kernel_that_changed_is_laid_out_again() -> None:
    convolve, x = PackedConvolution(), torch.randn(2, 8, 9, 9)
    weight = torch.randn(4, 8, 3, 3)
    with torch.no_grad():
        convolve(x, weight, None, 2, 1, 1, 1)
        weight.mul_(2)
        torch.testing.assert_close(convolve(x, weight, None, 2, 1, 1, 1), F.conv2d(x, weight, None, 2, 1))
        other = torch.randn(4, 8, 3, 3)
        torch.testing.assert_close(convolve(x, other, None, 2, 1, 1, 1), F.conv2d(x, other, None, 2, 1))
    assert len(convolve._kept) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_gradients_take_the_usual_way(dtype: torch.dtype) -> None:
    convolve = PackedConvolution()
    x, weight = torch.randn(2, 8, 9, 9, dtype=dtype), torch.randn(4, 8, 3, 3, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(convolve(x, weight, None, 1, 1, 1, 1), F.conv2d(x, weight, None, 1, 1))
    x, weight = x.float().requires_grad_(), weight.float()
    convolve(x, weight, None, 1, 1, 1, 1).sum().backward()
    assert x.grad is not None
    assert not convolve._kept


def test_convolutions_it_does_not_fit_are_left_alone() -> None:
    odd = [
        nn.Conv2d(3, 3, 3, padding="same"),
        nn.Conv2d(3, 3, 3, padding=(1, 0)),
        nn.Conv2d(3, 3, 3, stride=(1, 2)),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
    ]
    root = nn.Sequential(*odd, nn.Sequential(nn.Conv2d(3, 3, (1, 3)))).requires_grad_(False)
    before = copy.deepcopy(root)
    pack(root)
    assert [type(m) for m in root[:4]] == [nn.Conv2d] * 4
    assert isinstance(root[4][0], PackedConv2d)
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(root(x), before(x))


class _Tied(nn.Module):
    """A convolution whose weight another step reads, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        nn.init.normal_(self.bn.running_mean)
        nn.init.uniform_(self.bn.running_var, 0.2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.b(self.a(x))))
        return F.conv_transpose2d(y, self.b.weight, self.a.bias, padding=1).mean((2, 3))


@pytest.mark.parametrize("packed", [False, True])
def test_a_weight_that_something_else_reads_stays(packed: bool) -> None:
    torch.manual_seed(0)
    original = _Tied().eval()
    images = torch.randn(3, 3, 16, 16)
    network = dynamic.load(original, dynamic_layers=["a"])
    with torch.no_grad():
        torch.testing.assert_close(network.for_inference(packed=packed)(images, network.default), original(images))
