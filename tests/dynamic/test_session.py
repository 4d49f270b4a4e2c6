from __future__ import annotations

import numpy as np
import pytest
import torch

import dynamic
from dynamic import DynamicNetwork
from dynamic.recalibration import recalibrate
from dynamic.session import Session, boundary


def picked(network: DynamicNetwork) -> list[dynamic.Configuration]:
    space = dynamic.space("stride", network)
    return [space[position] for position in (0, 100, 100, 200, 0, 300)]


@torch.inference_mode()
def test_equals_the_network_whatever_was_looked_at_before(slim_network: tuple[str, DynamicNetwork]) -> None:
    _, network = slim_network
    images, chosen = torch.randn(6, 3, 64, 64), picked(network)
    expected = torch.cat([network(images[i : i + 1], c) for i, c in enumerate(chosen)])
    everything = np.arange(6)
    costs = np.array([network.macs(c, 64) for c in chosen])
    session = Session(network, images)
    torch.testing.assert_close(session.mixed(chosen), expected, rtol=1e-4, atol=1e-5)
    assert (session.macs == costs).all()
    assert torch.equal(session.mixed(chosen), session.mixed(chosen))
    assert (session.macs == costs).all()  # nothing is run twice
    # Looks beforehand are paid once, and change no answer.
    session = Session(network, images)
    session.before(1, network.default, everything)
    session.logits(chosen[1], np.array([3, 1]))
    torch.testing.assert_close(session.mixed(chosen), expected, rtol=1e-4, atol=1e-5)
    steps = network.costs.steps(network.default, 64)
    before_b = sum(steps[: 2 * boundary(network, 1) + 1])
    assert (session.macs <= costs + before_b + network.macs(chosen[1], 64) * np.isin(everything, [1, 3])).all()
    assert (session.macs >= costs).all()
    same_a = [c.stride[0] == network.default.stride[0] for c in chosen]
    assert session.macs[0] == costs[0] if same_a[0] else session.macs[0] > costs[0]


@torch.inference_mode()
def test_what_a_layer_reads(slim_network: tuple[str, DynamicNetwork]) -> None:
    """The value that the layer's own module is called with is among those in front of it."""
    _, network = slim_network
    images = torch.randn(2, 3, 64, 64)
    for layer in range(len(network.dynamic_layers)):
        site = next(site for site in network.program.sites if site.layer == layer)
        seen: list[torch.Tensor] = []
        handle = site.module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        network(images, network.default)
        handle.remove()
        values = Session(network, images).before(layer, network.default, np.arange(2))
        assert any(torch.equal(value, seen[0]) for value in values)


@torch.inference_mode()
def test_with_statistics_by_prefix() -> None:
    network = dynamic.load("resnet50-slim")
    images, chosen = torch.randn(6, 3, 96, 96), picked(network)
    fast = network.for_inference(statistics=recalibrate(network, torch.randn(16, 3, 96, 96), chosen))
    torch.testing.assert_close(Session(fast, images).mixed(chosen), fast(images, chosen), rtol=1e-4, atol=1e-4)


def test_steps_add_up() -> None:
    network = dynamic.load("resnet50-slim")
    for configuration in picked(network):
        assert sum(network.costs.steps(configuration, 96)) == network.macs(configuration, 96)


@torch.inference_mode()
def test_rows_in_any_order_and_twice() -> None:
    network = dynamic.load("resnet50-slim")
    images = torch.randn(3, 3, 96, 96)
    expected = network(images, network.default)
    session = Session(network, images)
    for rows in ([2, 2], [0, 1], [1, 0, 2, 1]):
        torch.testing.assert_close(session.logits(network.default, np.array(rows)), expected[rows], rtol=1e-4, atol=1e-5)
    assert (session.macs == network.macs(network.default, 96)).all()
    with pytest.raises(dynamic.UserError, match="3 images but 2 configurations"):
        session.mixed([network.default] * 2)


@torch.inference_mode()
def test_no_images() -> None:
    network = dynamic.load("resnet50-slim")
    assert Session(network, torch.zeros(2, 3, 96, 96)).logits(network.default, np.arange(0)).shape == (0, 10)
    with pytest.raises(dynamic.UserError, match="the network has 4"):
        Session(network, torch.zeros(1, 3, 96, 96)).logits(dynamic.Configuration((1,), (1,), (3,)), np.arange(1))
