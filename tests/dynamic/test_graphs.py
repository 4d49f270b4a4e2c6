"""What a trace leaves whole, and what it refuses because it could not keep it."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import dynamic
from dynamic import Configuration, DynamicNetwork, UserError
from dynamic.graphs import graph_of
from dynamic.recalibration import can_recalibrate, recalibrate


class Counted(nn.Module):
    """Which way it goes depends on the map, which torch.fx cannot follow."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x) if x.shape[2] % 2 == 0 else x


class Net(nn.Module):
    """Two convolutions, something between them, a head."""

    def __init__(self, between: nn.Module | None = None, channels: int = 3) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.between = nn.Sequential(between or nn.ReLU())
        self.b = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.between(self.norm(self.a(x)))).mean((2, 3)))


CHANGED = Configuration((1, 1), (2, 1), (3, 5))


def agree(original: nn.Module, images: Tensor) -> DynamicNetwork:
    """Compare the default to the bit, mixed and folded within rounding."""
    network = DynamicNetwork(original, ["a", "b"])
    with torch.no_grad():
        expected = original(images.clone())
        assert torch.equal(network(images, network.default), expected)
        folded = network.for_inference()
        torch.testing.assert_close(folded(images, network.default), expected, atol=1e-4, rtol=1e-4)
        mixed = network(images, [CHANGED, *[network.default] * (len(images) - 1)])
        torch.testing.assert_close(mixed[1:], expected[1:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mixed[:1], network(images[:1], CHANGED), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(folded(images, CHANGED), network(images, CHANGED), atol=1e-4, rtol=1e-4)
    return network


def test_what_torch_fx_cannot_follow_is_one_step_unless_a_dynamic_layer_lies_inside() -> None:
    agree(Net(Counted()), torch.randn(3, 3, 16, 16))
    with pytest.raises(UserError, match=r"torch.fx cannot trace Net \(in between.0\): symbolically traced variables cannot"):
        dynamic.load(Net(Counted()), dynamic_layers=["a", "between.0.mix"])


class AddsTwo(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 2


def moved(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """With statistics that are not zero and one."""
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def test_batch_norms_of_their_own_kind_stay_what_they_are() -> None:
    for kind in (AddsTwo, BatchNormAct2d):
        net = Net()
        net.norm = moved(kind(8))
        network = agree(net, torch.randn(3, 3, 16, 16))
        assert can_recalibrate(network) == (kind is BatchNormAct2d)
        if kind is AddsTwo:
            with pytest.raises(UserError, match=r"others than nn\.BatchNorm2d and timm's"):
                recalibrate(network, torch.randn(2, 3, 16, 16), [CHANGED])


def test_timms_fused_batch_norm_is_folded_and_recalibrated_as_a_plain_one_is() -> None:
    plain, fused = Net(), Net(nn.Identity())
    fused.load_state_dict(plain.state_dict())
    fused.norm = BatchNormAct2d(8)
    moved(plain.norm)
    fused.norm.load_state_dict(plain.norm.state_dict())
    images = torch.randn(6, 3, 16, 16)
    statistics, logits = [], []
    for original in (plain, fused):
        network = dynamic.load(original, dynamic_layers=["a", "b"])
        statistics.append(recalibrate(network, images, [network.default, CHANGED]))
        by_prefix = network.for_inference(statistics=statistics[-1])
        with torch.no_grad():
            logits.append(torch.cat([by_prefix(images, CHANGED), network.for_inference()(images, CHANGED)]))
        folded = network.for_inference().program
        assert not any(isinstance(m, nn.BatchNorm2d) for segment in folded.segments for m in segment.module.modules())
    for one, other in zip(*(s.moments for s in statistics), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize("name", ["tinynet_e", "regnety_002", "mobilevit_xxs"])
def test_timm_networks_that_fx_alone_cannot_trace(name: str) -> None:
    original = timm.create_model(name, num_classes=3).eval()
    network = dynamic.load(original)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images, network.default), original(images))


def hook_that_doubles(module: nn.Module, inputs: object, made: Tensor) -> Tensor:
    return made * 2


def test_hooks_are_kept_where_they_can_be_and_else_refused() -> None:
    images = torch.randn(3, 3, 16, 16)
    for name in ("between", "between.0", "norm", "head"):
        plain, net = Net(), Net()
        net.load_state_dict(plain.state_dict())
        net.get_submodule(name).register_forward_hook(hook_that_doubles)
        network = agree(net.eval(), images)
        assert not torch.equal(network(images, network.default), plain.eval()(images))
    hooked = nn.Sequential(Net(nn.Conv2d(8, 8, 1)))
    hooked[0].between[0].register_forward_hook(hook_that_doubles)
    network = DynamicNetwork(hooked, ["0.a"])
    with torch.no_grad():  # kernels laid out for a CPU lie in other modules
        packed = network.for_inference(packed=True)(images, network.default)
        torch.testing.assert_close(packed, network(images, network.default), atol=1e-4, rtol=1e-4)
    seen: list[int] = []
    net = Net()
    net.between.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    network = dynamic.load(net, dynamic_layers=["a", "b"])
    seen.clear()
    network(images, network.default)
    assert seen == [3]  # called with tensors, each time
    for name, reason in (("a", "'a' has hooks"), ("", "Net itself has hooks")):
        net = Net()
        net.get_submodule(name).register_forward_hook(hook_that_doubles)
        with pytest.raises(UserError, match=reason):
            dynamic.load(net, dynamic_layers=["a", "b"])
    outer = nn.Sequential(Net())
    outer[0].register_forward_hook(hook_that_doubles)
    with pytest.raises(UserError, match="0 has hooks and holds a dynamic layer"):
        dynamic.load(outer, dynamic_layers=["0.a"])


class Cast(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inside(x).float()


def test_autocast_inside_is_one_step_unless_it_covers_a_dynamic_layer() -> None:
    agree(Net(Cast(nn.Conv2d(8, 8, 1))), torch.randn(3, 3, 16, 16))
    for layers in (["inside.a"], None):
        with pytest.raises(UserError, match=r"cannot trace Cast: its forward enters torch.autocast or torch.no_grad"):
            dynamic.load(Cast(Net()), dynamic_layers=layers)


def test_dropout_that_is_always_on_is_named() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5, training=True)

    with pytest.raises(UserError, match="Net answers the same images differently each time: something random"):
        dynamic.load(Net(Noisy()), dynamic_layers=["a", "b"])


class Halves(nn.Module):
    """Writes into its input, out of sight of the trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5) if x.shape[2] > 1 else x


def test_a_step_that_writes_into_its_input_is_refused() -> None:
    with pytest.raises(UserError, match=r"between.0 writes into its input, which other configurations read"):
        dynamic.load(Net(Halves()), dynamic_layers=["a", "b"])


@pytest.mark.parametrize("channels", [1, 5])
def test_networks_of_one_channel_or_five(channels: int) -> None:
    network = agree(Net(channels=channels), torch.randn(3, channels, 16, 16))
    assert network.channels == network.for_inference().channels == channels
    assert network.macs(network.default, 16) == 16 * 16 * 8 * channels * 9 + 8 * 8 * 8 * 8 * 9 + 8 * 5
    assert network.costs.classes(16) == 5
    assert DynamicNetwork(copy.deepcopy(network.original).to("meta"), ["a", "b"]).channels == channels
    assert len(dynamic.space("dilation", network, 16)) == 25


def test_a_trace_leaves_the_mode_of_every_module_as_it_was() -> None:
    net = Net().train()
    net.norm.eval()
    for training in (False, True):
        graph_of(net, training=training)
        assert net.training
        assert not net.norm.training
