"""Whatever network is drawn: it runs as the original does under every configuration, or it is refused; never wrongly."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamic import Configuration, DynamicNetwork, UserError
from dynamic.layers import DynamicPool2d
from dynamic.norms import Statistics
from dynamic.recalibration import can_recalibrate, recalibrate
from dynamic.session import Session
from dynamic.sites import candidates
from dynamic.tracing import trace
from tests.dynamic.random_networks import SIDE, RandomNetwork, networks
from tests.plain_loop import SitesLoop

CLOSE = {"atol": 1e-9, "rtol": 1e-9}
"""In float64, so that a wrong pixel is not lost in rounding."""


def draw_configurations(data: st.DataObject, network: DynamicNetwork) -> list[Configuration]:
    """The default and three others that the network takes."""
    found = [network.default]
    for _ in range(3):
        options = {}
        for name, choices in (("stride", (0.5, 1, 2, 3)), ("dilation", (1, 2)), ("kernel_size", (1, 3, 5))):
            default = getattr(network.default, name)
            varied = [
                st.just(default[layer]) if (layer, name) in network.program.fixed else st.sampled_from(choices)
                for layer in range(len(default))
            ]
            options[name] = tuple(data.draw(choice) for choice in varied)
        found.append(Configuration(**options))
    return found


def running_statistics(network: DynamicNetwork, images: Tensor, configurations: list[Configuration]) -> Statistics:
    """Statistics by prefix that are everywhere the batch norms' own."""
    statistics = recalibrate(network, images, configurations)
    segments = trace(network.original, network.dynamic_layers, "by_prefix").segments
    for segment, moments in zip(segments, statistics.moments, strict=True):
        start = 0
        for norm in segment.norms:
            stop = start + norm.num_features
            moments[:, 0, start:stop], moments[:, 1, start:stop] = norm.running_mean, norm.running_var
            start = stop
    return statistics


def check_network(original: RandomNetwork, layers: list[str], data: st.DataObject) -> str:
    """Check every property of one network; returns what became of it."""
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64)
    expected = original(images.clone())
    try:
        network = DynamicNetwork(original, layers)
    except UserError as error:
        return "refused: " + ("order" if "order" in str(error) else "called twice" if "called" in str(error) else "other")
    assert torch.equal(network(images, network.default), expected)
    sites = [
        (s.name, s.layer, s.attributes, isinstance(s.module, DynamicPool2d) and s.module.follows)
        for s in network.program.sites
    ]
    loop, reference = SitesLoop(original, sites), {}
    for configuration in draw_configurations(data, network):
        try:
            reference[configuration] = loop.set(configuration)(images.clone())
        except RuntimeError:  # branches of unequal sides: the engine must not make something of them
            try:
                network(images, configuration)
            except RuntimeError:
                continue
            raise AssertionError(f"{configuration} runs, though the original so set does not") from None
    torch.testing.assert_close(reference[network.default], expected, **CLOSE)
    for configuration, logits in reference.items():
        torch.testing.assert_close(network(images, configuration), logits, **CLOSE)
    configurations = list(reference)
    folded = network.for_inference(dtype=torch.float64)
    mixed = [configurations[i % len(configurations)] for i in (3, 0, 1, 2)]
    one_each = torch.stack([reference[configuration][i] for i, configuration in enumerate(mixed)])
    for fast in (network, folded):
        for max_rows in (1, 8, 100):
            seen = []
            for columns, logits in fast.comprehensive(images, configurations, max_rows):
                for column in columns:
                    torch.testing.assert_close(logits, reference[configurations[column]], **CLOSE)
                seen += columns
            assert sorted(seen) == list(range(len(configurations)))
        torch.testing.assert_close(fast(images, mixed), one_each, **CLOSE)
    if can_recalibrate(network):
        by_prefix = network.for_inference(
            dtype=torch.float64, statistics=running_statistics(network, images, configurations)
        )
        for columns, logits in by_prefix.comprehensive(images, configurations, 8):
            torch.testing.assert_close(logits, reference[configurations[columns[0]]], atol=1e-3, rtol=1e-3)  # float32 inside
        torch.testing.assert_close(by_prefix(images, mixed), one_each, atol=1e-3, rtol=1e-3)
    session = Session(network, images)
    session.before(len(layers) - 1, configurations[-1], np.array([2, 0]))
    torch.testing.assert_close(session.mixed(mixed), one_each, **CLOSE)
    macs = network.costs.of_space(configurations, SIDE)
    assert macs.min() > 0
    assert macs.max() <= network.costs.shared(configurations, SIDE) <= macs.sum()
    assert [sum(network.costs.steps(configuration, SIDE)) for configuration in configurations] == macs.tolist()
    return "others" if len(configurations) > 1 else "default only"


@pytest.mark.slow
def test_random_networks_run_as_their_originals_do_or_are_refused() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(networks(), st.data())
    @torch.inference_mode()
    def check(drawn: RandomNetwork, data: st.DataObject) -> None:
        names = candidates(drawn)
        count = data.draw(st.integers(1, min(3, len(names))))
        chosen = sorted(data.draw(st.lists(st.sampled_from(range(len(names))), min_size=count, max_size=count, unique=True)))
        original = copy.deepcopy(drawn).double()
        outcomes[check_network(original, [names[position] for position in chosen], data)] += 1

    check()
    # Refusing everything would pass too.
    assert outcomes["others"] > 30, outcomes
