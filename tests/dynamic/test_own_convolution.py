"""Convolutions with a forward of their own: the plain loop, which sets the module's attributes, says what is right."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2dSame
from torch import Tensor, nn

from dynamic import Configuration, DynamicNetwork, UserError
from dynamic.configuration import Space
from dynamic.fitting import fitting_space
from dynamic.layers import DynamicPool2d
from dynamic.option import Option
from dynamic.own_convolution import OwnConv2d, dynamic_convolution
from dynamic.sites import propose
from tests.dynamic.random_networks import settle
from tests.plain_loop import SitesLoop


class StaticSame(nn.Conv2d):
    """As in EfficientNets of other packages: the padding of "same" worked out when it is built, ``padding`` itself 0."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        reach = self.dilation[0] * (self.kernel_size[0] - 1)
        self.static_padding = nn.ZeroPad2d((reach // 2, reach - reach // 2) * 2)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(
            self.static_padding(input), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        weight = ((flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)).view_as(self.weight)
        return self._conv_forward(input, weight, self.bias)


def reflecting(*args: int, **kwargs: int) -> nn.Conv2d:
    return nn.Conv2d(*args, padding_mode="reflect", **kwargs)


MAKERS = {
    "same of TensorFlow": (lambda *a, **k: Conv2dSame(*a, **k), True),
    "standardised and same": (lambda *a, **k: StdConv2dSame(*a, **k), True),
    "scaled and standardised": (lambda *a, **k: ScaledStdConv2d(*a, **k), False),
    "static padding": (lambda *a, **k: StaticSame(*a, **k), False),
    "standardised": (lambda *a, **k: Standardised(*a, padding=1, **k), False),
    "reflecting": (lambda *a, **k: reflecting(*a, padding=1, **k), False),
}


class TwoBlocks(nn.Module):
    """A layer on its own, and one beside a projection; batch norms that must not be folded into either."""

    def __init__(self, make) -> None:
        super().__init__()
        self.first = make(3, 8, 3, stride=2, bias=True)
        self.first_norm = nn.BatchNorm2d(8)
        self.second = make(8, 8, 3, stride=2, groups=2, bias=False)
        self.second_norm = nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(8, 8, 1, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first_norm(self.first(x)))
        return self.head((self.second_norm(self.second(x)) + self.shortcut(x)).mean((2, 3)))


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_the_engine_computes_what_the_plain_loop_does(kind: str) -> None:
    make, pads_itself = MAKERS[kind]
    torch.manual_seed(0)
    original = settle(TwoBlocks(make))
    network, images = DynamicNetwork(original, ["first", "second"]), torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images, network.default), original(images))
    everything = ("stride", "dilation", "kernel_size")
    sites = [("first", 0, everything, False), ("shortcut", 1, ("stride",), False), ("second", 1, everything, False)]
    loop = SitesLoop(original, sites, frozenset({"first", "second"} if pads_itself else ()))
    halves = (0.5, 1, 2, 3) if kind != "static padding" else (1, 2, 3)
    options = list(itertools.product(halves, (1, 2), (1, 3, 5)))
    chosen = [Configuration(*zip(options[i], options[-3 * i % len(options)], strict=True)) for i in range(len(options))]
    expected = torch.stack([loop.set(configuration)(images) for configuration in chosen])
    for fast in (network, network.for_inference(), network.for_inference(packed=True)):
        got = torch.empty_like(expected)
        for columns, logits in fast.comprehensive(images, chosen):
            got[columns] = logits
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        mixed = fast(images, [chosen[1], chosen[-1]])
        torch.testing.assert_close(mixed, torch.stack([expected[1, 0], expected[-1, 1]]), rtol=1e-4, atol=1e-4)


def test_costs_are_of_the_own_forward() -> None:
    network = DynamicNetwork(settle(TwoBlocks(MAKERS["same of TensorFlow"][0])), ["first", "second"])
    macs = network.macs(Configuration((1, 2), (1, 1), (5, 3)), 32) - network.macs(Configuration((1, 2), (1, 1), (3, 3)), 32)
    assert macs == 32 * 32 * 3 * 8 * (25 - 9)
    assert network.costs.row_bytes([network.default], 32) > 0


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_reach_the_original_weights(kind: str) -> None:
    conv = MAKERS[kind][0](2, 4, 3, bias=True)
    layer, x = dynamic_convolution(conv), torch.randn(1, 2, 8, 8)
    assert isinstance(layer, OwnConv2d)
    with torch.no_grad():
        layer(x, Option(1, 1, 5))  # what inference cached must not be used
    layer(x, Option(2, 2, 5)).square().sum().backward()
    for parameter in conv.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert (conv.stride, conv.kernel_size) == ((1, 1), (3, 3))


def test_frozen_kernels_follow_the_weights() -> None:
    conv = Conv2dSame(2, 2, 3, bias=False).requires_grad_(False)
    layer, x = dynamic_convolution(conv), torch.randn(1, 2, 5, 5)
    before = layer(x, Option(1, 1, 5))
    conv.weight.mul_(2)
    torch.testing.assert_close(layer(x, Option(1, 1, 5)), 2 * before)


def test_a_bias_is_scaled_with_the_kernel() -> None:
    conv = Conv2dSame(2, 2, 3)
    nn.init.zeros_(conv.weight)
    made = dynamic_convolution(conv)(torch.randn(1, 2, 4, 4), Option(1, 1, 5))
    torch.testing.assert_close(made, (conv.bias * 9 / 25)[None, :, None, None].expand_as(made))


def test_half_strides_that_make_another_size_are_refused() -> None:
    layer = dynamic_convolution(StaticSame(2, 2, 3))
    with pytest.raises(UserError, match=r"a StaticSame of kernel 3 makes 34 x 34 of 16 x 16 pixels, not twice as many"):
        layer(torch.randn(1, 2, 16, 16), Option(0.5, 1, 3))


def test_half_strides_that_do_not_fit_leave_the_others_in_the_space() -> None:
    layers = [StaticSame(3, 4, 3), nn.ReLU(), StaticSame(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = DynamicNetwork(nn.Sequential(*layers), ["0", "2"], resolution=16)
    changed = [network.default.changed({"stride": strides}) for strides in ((2, 1), (0.5, 1), (1, 3))]
    space, lines = fitting_space(Space("mine", [network.default, *changed]), network, 16)
    assert set(space) == {network.default, changed[0], changed[2]}
    assert "not twice as many" in lines[0]


@pytest.mark.parametrize("option", [Option(1, 2, 3), Option(1, 1, 5), Option(2, 3, 1)])
def test_reflected_borders_that_are_worked_out_when_built_move_with_the_option(option: Option) -> None:
    same, one = reflecting(2, 2, 3, padding="same"), reflecting(2, 2, 3, padding=1)
    one.load_state_dict(same.state_dict())
    x = torch.randn(1, 2, 16, 16)
    torch.testing.assert_close(dynamic_convolution(same)(x, option), dynamic_convolution(one)(x, option))


def test_parametrised_weights_are_read_through_their_parametrisation() -> None:
    conv = Conv2dSame(2, 2, 3, bias=False).requires_grad_(False)
    plain = dynamic_convolution(Conv2dSame(2, 2, 3, bias=False).requires_grad_(False))
    plain.conv.load_state_dict(conv.state_dict())
    layer = dynamic_convolution(nn.utils.parametrizations.weight_norm(conv))
    x = torch.randn(1, 2, 8, 8)
    for option in (layer.default, Option(2, 1, 5)):
        torch.testing.assert_close(layer(x, option), plain(x, option))


def test_weights_that_a_hook_computes_are_refused() -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        conv = nn.utils.weight_norm(Conv2dSame(2, 2, 3))
    with pytest.raises(UserError, match="computed by a hook"):
        dynamic_convolution(conv)


def test_a_forward_that_takes_one_size_only_is_refused() -> None:
    class Fixed(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, self.weight.view(4, 2, 3, 3), self.bias, self.stride)

    with pytest.raises(UserError, match="does not run with a larger kernel"):
        dynamic_convolution(Fixed(2, 4, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_mobilenetv3_small_100", "eca_nfnet_l0"])
@torch.no_grad()
def test_whole_networks_of_timm(name: str) -> None:
    torch.manual_seed(0)
    original = settle(timm.create_model(name, num_classes=10))
    for parameter in original.parameters():
        if not parameter.any():  # gains of branches begin at zero, which hides the branch
            nn.init.normal_(parameter, std=0.2)
    network, images = DynamicNetwork(original, propose(original, 96), resolution=96), torch.randn(2, 3, 96, 96)
    assert torch.equal(network(images, network.default), original(images))
    sites = [
        (s.name, s.layer, s.attributes, isinstance(s.module, DynamicPool2d) and s.module.follows)
        for s in network.program.sites
    ]
    own = {s.name: s.module for s in network.program.sites if isinstance(s.module, OwnConv2d)}
    assert len(own) >= 4
    loop = SitesLoop(original, sites, frozenset(own if name.startswith("tf_") else ()))
    fast = network.for_inference()
    for last in ((1, 1, 5), (3, 2, 3), (0.5, 1, 1)):
        options = zip(("stride", "dilation", "kernel_size"), last, strict=True)
        chosen = network.default.changed({key: (*network.default.options(key)[:-1], option) for key, option in options})
        expected = loop.set(chosen)(images)
        assert not torch.allclose(expected, original(images))
        torch.testing.assert_close(fast(images, chosen), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
