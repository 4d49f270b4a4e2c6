from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import dynamic
from dynamic import Configuration, DynamicNetwork, UserError
from dynamic.models import DYNAMIC_LAYERS
from tests.conftest import MODELS, settled
from tests.plain_loop import plain_loop

SPACES = ["stride-all", "dilation", "size", "efficiency"]


def sample(space: str, network: DynamicNetwork, count: int, must: str = "") -> list[Configuration]:
    """A few configurations of a space; of strides, at least one with 1/2."""
    configurations = list(dynamic.space(space, network))
    chosen = random.Random(space).sample(configurations, count)
    halves = [c for c in configurations if 0.5 in c.stride and min(c.stride[:2]) >= 2]
    return chosen + random.Random(1).sample(halves, min(2, len(halves)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [64, 97])
def test_default_configuration_equals_the_original_to_the_last_bit(name: str, size: int) -> None:
    original = settled(name)
    network = DynamicNetwork(original, DYNAMIC_LAYERS[name])
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(network(images, network.default), original(images))
        assert torch.equal(network(images, [network.default] * 2), original(images))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_engine_equals_the_plain_loop(slim_network: tuple[str, DynamicNetwork], space: str, dtype: torch.dtype) -> None:
    name, shared = slim_network
    # A network of its own, because conversion to float64 is in place.
    import copy

    original = copy.deepcopy(shared.original).to(dtype)
    network = DynamicNetwork(original, shared.dynamic_layers)
    configurations = sample(space, network, 4)
    images = torch.randn(3, 3, 64, 64, dtype=dtype)
    expected = plain_loop(original, name, configurations, images)
    tolerance = {"atol": 1e-9, "rtol": 1e-9} if dtype == torch.float64 else {"atol": 1e-3, "rtol": 1e-3}
    for max_rows in (1, 6, 1000):
        with torch.inference_mode():
            for columns, logits in network.comprehensive(images, configurations, max_rows):
                for column in columns:
                    torch.testing.assert_close(logits, expected[column], **tolerance)
    with torch.inference_mode():
        for configuration, logits in zip(configurations, expected, strict=True):
            torch.testing.assert_close(network(images, configuration), logits, **tolerance)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("slim_network", ["resnet50", "resnext50_32x4d"], indirect=True)
def test_the_stem_is_a_layer_like_others(slim_network: tuple[str, DynamicNetwork], space: str) -> None:
    name, shared = slim_network
    network = DynamicNetwork(shared.original, ("conv1", *shared.dynamic_layers))
    configurations = sample(space, network, 6)
    assert len({(c.stride[0], c.dilation[0], c.kernel_size[0]) for c in configurations}) > 1
    images = torch.randn(3, 3, 64, 64)
    expected = plain_loop(shared.original, name, configurations, images)
    with torch.inference_mode():
        for columns, logits in network.comprehensive(images, configurations):
            torch.testing.assert_close(logits, expected[columns[0]], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_full_size_engine_equals_the_plain_loop(name: str) -> None:
    original = settled(name)
    network = DynamicNetwork(original, DYNAMIC_LAYERS[name])
    configurations = [sample(space, network, 1)[-1] for space in SPACES]
    images = torch.randn(1, 3, 64, 64)
    expected = plain_loop(original, name, configurations, images)
    with torch.inference_mode():
        for columns, logits in network.comprehensive(images, configurations):
            torch.testing.assert_close(logits, expected[columns[0]], atol=1e-3, rtol=1e-3)


def test_comprehensive_visits_every_configuration_once(slim_network: tuple[str, DynamicNetwork]) -> None:
    _, network = slim_network
    configurations = list(dynamic.space("efficiency", network))[::97]
    with torch.inference_mode():
        columns = [c for found, _ in network.comprehensive(torch.randn(1, 3, 32, 32), configurations) for c in found]
    assert sorted(columns) == list(range(len(configurations)))


def test_mixed_batches_equal_one_by_one(slim_network: tuple[str, DynamicNetwork]) -> None:
    _, network = slim_network
    chosen = [c for space in SPACES for c in sample(space, network, 2)] + [network.default] * 3
    random.Random(2).shuffle(chosen)
    images = torch.randn(len(chosen), 3, 64, 64)
    with torch.inference_mode():
        mixed = network(images, chosen)
        single = torch.cat([network(images[i : i + 1], configuration) for i, configuration in enumerate(chosen)])
    torch.testing.assert_close(mixed, single, atol=1e-3, rtol=1e-3)


def test_images_that_share_a_prefix_run_it_together() -> None:
    network = dynamic.load("resnet50-slim")
    default = network.default
    other = Configuration((1, 2, 2, 1), default.dilation, default.kernel_size)
    rows: dict[str, list[int]] = {}
    for name in ("conv1", "layer3.0.conv1", "layer4.0.conv3"):
        network.original.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: rows.setdefault(name, []).append(len(output))
        )
    with torch.inference_mode():
        network(torch.zeros(6, 3, 96, 96), [default, other, default, other, default, default])
    assert rows == {"conv1": [6], "layer3.0.conv1": [6], "layer4.0.conv3": [2, 4]}


def test_siblings_of_one_shape_are_joined_again() -> None:
    network = dynamic.load("resnet50-slim")
    rows: list[int] = []
    network.original.layer4[2].conv3.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    space = [c for c in dynamic.space("dilation", network) if c.dilation[:3] == (1, 1, 1)]
    with torch.inference_mode():
        list(network.comprehensive(torch.zeros(2, 3, 96, 96), space, max_rows=100))
        list(network.comprehensive(torch.zeros(2, 3, 96, 96), space, max_rows=4))
    assert rows == [10, 4, 4, 2]


def test_folded_network_is_equal_within_rounding(slim_network: tuple[str, DynamicNetwork]) -> None:
    _, network = slim_network
    folded = network.for_inference()
    configurations = sample("size", network, 3) + sample("stride-all", network, 3)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for configuration in configurations:
            torch.testing.assert_close(folded(images, configuration), network(images, configuration), atol=2e-3, rtol=2e-3)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.original.modules())


def test_empty_batch() -> None:
    network = dynamic.load("resnet50-slim")
    assert network(torch.zeros(0, 3, 96, 96), []).shape == (0, 10)


def test_the_original_is_untouched_and_gradients_flow() -> None:
    original = settled("resnet50-slim")
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    network = DynamicNetwork(original, DYNAMIC_LAYERS["resnet50"])
    configuration = Configuration((1, 2, 2, 0.5), (1, 2, 1, 1), (3, 5, 1, 3))
    network(torch.randn(2, 3, 64, 64), configuration).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())
    assert original.layer2[0].conv2.weight.grad.abs().sum() > 0
    original.zero_grad(set_to_none=True)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.beside = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x)))) * self.scale
        x = x + self.beside(x)
        x += 1
        return self.head(self.pool(x).mean((2, 3)))


def test_any_traceable_module_with_named_layers() -> None:
    module = Tiny()
    network = dynamic.load(module, dynamic_layers=["first", "second", "pool"])
    assert network.default == Configuration((1, 2, 2), (1, 1, 1), (3, 3, 2))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images, network.default), module(images))
        assert network(images, Configuration((0.5, 1, 1), (2, 1, 1), (5, 1, 2))).shape == (2, 5)


def test_a_layer_beside_a_plain_shortcut_keeps_its_stride() -> None:
    network = dynamic.load(Tiny(), dynamic_layers=["beside"])
    with pytest.raises(UserError, match="stride of layer A: beside lies beside a shortcut without a convolution"):
        dynamic.space("stride", network)
    assert len(dynamic.space("dilation", network)) == 5


def test_a_pool_has_neither_dilation_nor_kernel_size() -> None:
    with pytest.raises(UserError, match="pool is a pool"):
        dynamic.space("dilation", dynamic.load(Tiny(), dynamic_layers=["pool"]))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["secnd"], "near it: second.*candidates: first, second, beside, pool"),
        (["head"], "no convolution or pool is called 'head'"),
        (["second", "first"], "from input to output"),
        ([], "one to 6 dynamic layers"),
        (["first"] * 7, "one to 6 dynamic layers"),
    ],
)
def test_wrong_layers_are_named(layers: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DynamicNetwork(Tiny(), layers)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_untraceable_and_unfitting_networks_are_refused() -> None:
    with pytest.raises(UserError, match="cannot trace Branching"):
        DynamicNetwork(Branching(), ["a"])
    network = dynamic.load("resnet50-slim")
    with pytest.raises(UserError, match="configures 1 layers, the network has 4"):
        network(torch.zeros(1, 3, 96, 96), Configuration((1,), (1,), (3,)))
    with pytest.raises(UserError, match="2 images but 1 configurations"):
        network(torch.zeros(2, 3, 96, 96), [network.default])


def test_timm_models() -> None:
    network = dynamic.load("timm/resnet26d", weights=None, dynamic_layers=["layer3.0.conv2", "layer4.0.conv2"])
    # Its shortcut halves with an average pool, which must follow the stride.
    assert [site.name for site in network.program.sites][:2] == ["layer3.0.downsample.0", "layer3.0.conv2"]
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(images, network.default), network.original(images))
        assert network(images, Configuration((1, 0.5), (1, 2), (3, 5))).shape == (1, 1000)
