from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import dynamic
from dynamic import Configuration, DynamicNetwork, UserError
from dynamic.models import DYNAMIC_LAYERS
from dynamic.recalibration import recalibrate
from dynamic.scenes import FashionScenes
from tests.conftest import settled
from tests.plain_loop import PlainLoop

FIXED = ((1, 1, 1, 1), (3, 3, 3, 3))
CONFIGURATIONS = [
    Configuration((1, 2, 2, 2), *FIXED),
    Configuration((2, 2, 2, 2), *FIXED),
    Configuration((1, 2, 3, 0.5), *FIXED),
    Configuration((1, 2, 2, 2), (1, 2, 3, 1), FIXED[1]),
    Configuration((1, 2, 2, 2), FIXED[0], (1, 5, 3, 1)),
]


def batch_statistics(original: nn.Module, name: str, configuration: Configuration, images: torch.Tensor) -> torch.Tensor:
    """The slow reference: the plain loop's network, its batch norms normalising by the batch itself."""
    network = copy.deepcopy(PlainLoop(original, name).set(configuration))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        return network(images)


@pytest.mark.slow
def test_it_equals_batch_statistics_in_the_plain_loop(slim_network: tuple[str, DynamicNetwork]) -> None:
    name, network = slim_network
    images = torch.randn(6, 3, 64, 64)
    # In double precision: deep normalisation of few images amplifies rounding.
    network = DynamicNetwork(copy.deepcopy(network.original).double(), network.dynamic_layers)
    configurations = [c for c in CONFIGURATIONS if name != "densenet121-slim" or c.stride[0] == 2]
    statistics = recalibrate(network, images, configurations, batch=6, max_rows=12)
    fast = network.for_inference(dtype=torch.float64, statistics=statistics)
    for configuration in configurations:
        expected = batch_statistics(network.original, name, configuration, images.double())
        got = fast(images.double(), configuration)
        # The statistics themselves are stored in single precision.
        assert (got - expected).abs().max() < 1e-3 * expected.abs().max(), configuration.id
    # The comprehensive walk and a mixed batch give the same, at the same MACs.
    whole = torch.zeros(len(configurations), 6, 10, dtype=torch.float64)
    for columns, logits in fast.comprehensive(images.double(), configurations):
        for column in columns:
            whole[column] = logits
    mixed = [configurations[i % len(configurations)] for i in range(6)]
    one_each = fast(images.double(), mixed)
    for i, configuration in enumerate(mixed):
        torch.testing.assert_close(one_each[i], whole[configurations.index(configuration), i])
        assert fast.macs(configuration, 64) == network.macs(configuration, 64)


def test_nothing_learned_changes_and_labels_are_not_needed() -> None:
    network = DynamicNetwork(settled("resnet50-slim"), DYNAMIC_LAYERS["resnet50"])
    digest = network.digest
    first = recalibrate(network, torch.randn(4, 3, 64, 64), CONFIGURATIONS)
    assert network.digest == digest == first.weights_digest
    assert all(not module.training for module in network.original.modules())


def test_statistics_are_stored_once_a_prefix() -> None:
    network = DynamicNetwork(settled("resnet50-slim"), DYNAMIC_LAYERS["resnet50"])
    space = [Configuration(s, *FIXED) for s in np.ndindex(3, 2, 2, 2) if min(s) > 0]  # strides {1, 2} x {1} x {1} x {1}
    statistics = recalibrate(network, torch.randn(2, 3, 64, 64), [*space, CONFIGURATIONS[0]])
    sites = [site.layer for site in network.program.sites]
    assert sites == [0, 0, 1, 1, 2, 2, 3, 3]  # shortcut, convolution
    strides = {c.stride for c in [*space, CONFIGURATIONS[0]]}
    for index, known in enumerate(statistics.prefixes):
        layers = len({layer for layer in sites[:index]})
        assert len(known) == len({s[:layers] for s in strides})


def test_batches_are_averaged() -> None:
    network = DynamicNetwork(copy.deepcopy(settled("resnet50-slim")).double(), DYNAMIC_LAYERS["resnet50"])
    images = torch.randn(8, 3, 64, 64)
    together = recalibrate(network, images, CONFIGURATIONS[:1], batch=8)
    apart = recalibrate(network, images, CONFIGURATIONS[:1], batch=4, threads=2)
    # The stem sees the same pixels either way: equal means, and E[x^2] - E[x]^2 over all of them.
    torch.testing.assert_close(together.moments[0][:, :, :16], apart.moments[0][:, :, :16], atol=1e-5, rtol=1e-5)


def test_wrong_use_is_named() -> None:
    network = DynamicNetwork(settled("resnet50-slim"), DYNAMIC_LAYERS["resnet50"])
    statistics = recalibrate(network, torch.randn(4, 3, 64, 64), CONFIGURATIONS)
    fast = network.for_inference(statistics=statistics)
    with pytest.raises(UserError, match="no batch-norm statistics for options"):
        fast(torch.randn(1, 3, 64, 64), Configuration((4, 4, 4, 4), *FIXED))
    with pytest.raises(UserError, match="estimated for other weights"):
        DynamicNetwork(settled("densenet121-slim"), DYNAMIC_LAYERS["densenet121"]).for_inference(statistics=statistics)
    with pytest.raises(UserError, match="at least two images, not 1"):
        recalibrate(network, torch.randn(1, 3, 64, 64), CONFIGURATIONS)


@pytest.mark.slow
def test_the_embedded_network_keeps_its_accuracy_and_poor_configurations_gain() -> None:
    network = dynamic.load("resnet50-slim")
    label, test = FashionScenes("label", count=128), FashionScenes("test", count=300)
    half = Configuration((1, 2, 2, 0.5), *FIXED)
    statistics = recalibrate(network, label.render(range(128)), [network.default, half])
    images, labels = test.render(range(300)), torch.from_numpy(test.labels)
    accuracy = {}
    for name, fast in (("own", network.for_inference()), ("new", network.for_inference(statistics=statistics))):
        for configuration in (network.default, half):
            with torch.inference_mode():
                accuracy[name, configuration] = (fast(images, configuration).argmax(1) == labels).float().mean().item()
    assert abs(accuracy["new", network.default] - accuracy["own", network.default]) < 0.03
    assert accuracy["new", half] > accuracy["own", half] + 0.1


@torch.inference_mode()
def test_the_default_may_keep_its_own_statistics() -> None:
    network = dynamic.load("resnet50-slim")
    images = FashionScenes("label", "wide", count=24).render(range(24))
    other = dynamic.Configuration((2, 2, 2, 1), (1, 1, 1, 1), (3, 3, 3, 3))
    statistics = recalibrate(network, images, [network.default, other], keep_default=True)
    fast = network.for_inference(statistics=statistics)
    torch.testing.assert_close(fast(images, network.default), network(images, network.default), rtol=1e-4, atol=1e-3)
    assert (fast(images, other) - network(images, other)).abs().max() > 0.1  # the other's are new
    without = network.for_inference(statistics=recalibrate(network, images, [network.default, other]))
    assert (without(images, network.default) - network(images, network.default)).abs().max() > 0.1
