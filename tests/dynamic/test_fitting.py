"""Spaces without what a network cannot run: nothing is dropped that runs, nothing is kept that does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dynamic
from dynamic import Configuration, DynamicNetwork, UserError, fitting_space
from dynamic.configuration import Space, make_space
from oracle.evaluation.collect import make_spaces


def runs(network: DynamicNetwork, configuration: Configuration, images: Tensor) -> bool:
    """Whether the engine, with data, takes it."""
    try:
        with torch.no_grad():
            network(images, configuration)
    except (RuntimeError, UserError):
        return False
    return True


def check_exactly_what_runs(network: DynamicNetwork, name: str, side: int, step: int) -> list[str]:
    whole = make_space(name, network.default)
    fitted, lines = fitting_space(whole, network, side)
    images = torch.randn(1, network.channels, side, side)
    for configuration in list(whole)[::step]:
        assert runs(network, configuration, images) == (configuration in fitted), configuration
    assert network.default in fitted
    return lines


def test_resnet18_beside_an_identity(capsys: pytest.CaptureFixture[str]) -> None:
    layers = ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"]
    network = dynamic.load("resnet18", weights=None, classes=3, dynamic_layers=layers)
    space = dynamic.space("stride", network)
    assert {c.stride[0] for c in space} == {1}
    assert len(space) == sum(c.stride[0] == 1 for c in make_space("stride", network.default)) < 361
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"space 'stride': {361 - len(space)} of 361 configurations left out: each changes the stride of layer A: "
        "layer1.0.conv1 lies beside a shortcut without a convolution, which cannot follow its stride"
    )
    assert len(dynamic.space("dilation", network)) == 625
    assert capsys.readouterr().err == ""
    assert check_exactly_what_runs(network, "stride", 64, 17)[0] == line
    assert [len(space) for space in make_spaces("stride,size", network, 64)] == [len(space), 625]


class ShrinksToNothing(nn.Module):
    """Three unpadded pools behind the layers, as VGG has them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pools = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pools(self.b(self.a(x))).mean((2, 3)))


def test_what_shrinks_to_nothing_depends_on_the_resolution() -> None:
    network = DynamicNetwork(ShrinksToNothing(), ["a", "b"])
    whole, lines = fitting_space(make_space("stride-all", network.default), network, 128)
    assert (len(whole), lines) == (16, [])
    (line,) = check_exactly_what_runs(network, "stride-all", 32, 1)
    assert "of 16 configurations left out: each does not fit 32 x 32 pixels (s" in line
    with pytest.raises(UserError, match=r"the network does not run on images of 4 x 4 pixels: "):
        fitting_space(make_space("stride", network.default), network, 4)
    with pytest.raises(UserError, match=r"nothing but the default is left: space 'stride-all': 15 of 16 .* 8 x 8 pixels"):
        fitting_space(make_space("stride-all", network.default), network, 8)
    assert len(fitting_space(make_space("stride-all", network.default), network, None)[0]) == 16


class FixedSize(ShrinksToNothing):
    """A head for one size of map."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pools(self.b(self.a(x))).flatten(1))


def test_a_head_that_fixes_the_size_leaves_dilations_and_kernels() -> None:
    network = DynamicNetwork(FixedSize(), ["a", "b"])
    assert network.fixed.keys() == {(0, "stride"), (1, "stride")}
    changed = Configuration((2, 1), (1, 1), (3, 3))
    with pytest.raises(UserError, match=r"changes the stride of layer A: the network fails at every other stride \(a and b"):
        network(torch.zeros(1, 3, 32, 32), changed)
    with pytest.raises(UserError, match="nothing but the default is left"):
        dynamic.space("stride", network)
    assert len(dynamic.space("dilation", network, 32)) == 25
    assert network.for_inference().objection(changed) is not None


def test_layers_none_of_which_can_vary_are_refused_at_once() -> None:
    class OnlyPool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.head = nn.MaxPool2d(2), nn.Linear(3 * 8 * 8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(x).flatten(1))

    with pytest.raises(
        UserError, match=r"no layer can vary anything: pool is a pool; the network fails at every other stride"
    ):
        DynamicNetwork(OnlyPool(), ["pool"])


def test_a_layer_keeps_what_it_has_where_the_space_has_no_such_option() -> None:
    network = dynamic.load("squeezenet1_1", weights=None, classes=3, dynamic_layers=["features.2", "features.3.expand3x3"])
    assert network.default.kernel_size == (3, 3)
    sizes = Space("mine", [Configuration(network.default.stride, (1, 1), (k, k)) for k in (5, 7)])
    fitted, lines = fitting_space(sizes, network, None)
    assert {c.kernel_size for c in fitted} == {(3, 5), (3, 7)}
    assert lines == []


def test_a_named_space_has_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    wide = nn.Sequential(nn.Conv2d(3, 4, 11, padding=5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network = DynamicNetwork(wide, ["0"])
    assert network.default in dynamic.space("size", network)
    assert capsys.readouterr().err == (
        f"space 'size': the default {network.default.id} was added, the baseline of every comparison\n"
    )
