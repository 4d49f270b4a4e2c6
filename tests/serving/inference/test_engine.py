from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.models import load
from selector.learning.fitting import play
from selector.observation.costs import Costs
from selector.observation.images import Live
from serving.errors import Rejected
from serving.inference.deployment import FORCED, Plan, Served, open_served
from serving.inference.engine import answer
from serving.settings import ServingSettings
from tests.plain_loop import plain_loop


def forced(configuration: Configuration) -> Plan:
    return Plan(FORCED, None, configuration)


def test_every_image_of_a_mixed_batch_gets_what_a_plain_static_network_says() -> None:
    """No recalibration: the reference is the original module with its strides set by hand."""
    settings = ServingSettings(network="resnet50-slim", device="cpu")
    served = open_served(settings)
    images = torch.randn(6, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    chosen = [served.configurations[position] for position in (0, 7, 7, 150, 300, 360)]
    answers = answer(served, images, [forced(c) for c in chosen])
    original = load("resnet50-slim").original
    for image, configuration, found in zip(images, chosen, answers, strict=True):
        with torch.inference_mode():
            expected = plain_loop(original, "resnet50-slim", [configuration], image[None])[0, 0].softmax(0)
        assert np.allclose(found.probabilities, expected.numpy(), atol=2e-3)  # half precision
        assert found.configuration == configuration
        assert found.macs == served.macs(configuration)


@pytest.mark.parametrize("name", ["cascade", "correctness", "neighbours", "head", "stagewise", "top_two", "averaging"])
def test_each_policy_answers_as_the_benchmark_plays_it(served: Served, images: Tensor, name: str) -> None:
    plan, _ = served.plan(policy=name)
    answers = answer(served, images, [plan] * len(images))
    prepared = images.contiguous(memory_format=torch.channels_last)
    played = play(served.policies[name], Live(served.network, prepared, served.portfolio, served.costs), plan.dial)
    assert [served.portfolio.index(a.configuration) for a in answers] == played.columns.tolist()
    assert [int(a.probabilities.argmax()) for a in answers] == played.predicted.tolist()
    assert np.allclose([a.macs for a in answers], played.macs)


def test_policies_and_forced_configurations_share_a_batch_and_change_nothing_for_each_other(
    served: Served, images: Tensor
) -> None:
    plans = [served.plan(policy="cascade")[0], served.plan(policy="default")[0], forced(served.portfolio[3])]
    mixed = [plans[row % 3] for row in range(len(images))]
    together = answer(served, images, mixed)
    for position, plan in enumerate(plans):
        alone = answer(served, images[position::3], [plan] * len(images[position::3]))
        for a, b in zip(together[position::3], alone, strict=True):
            assert a.configuration == b.configuration
            assert a.macs == b.macs
            assert np.allclose(a.probabilities, b.probabilities, atol=2e-3)


def test_work_is_shared_and_counted_once(served: Served, images: Tensor) -> None:
    plan, _ = served.plan(policy="top_two")
    found = answer(served, images[:8], [plan] * 8)
    for each in found:
        assert each.selecting >= 0
        assert each.macs < 2 * served.macs(served.default) + 2e6


def test_a_budget_takes_the_most_accurate_operating_point_under_it(served: Served) -> None:
    _, point = served.plan(max_gmacs=0.03)
    assert point is not None
    assert point.macs <= 0.03e9
    every = [p for policy in served.policies.values() for p in policy.points_ if p.macs <= 0.03e9]
    assert point.accuracy == max(p.accuracy for p in every)
    named, within = served.plan(policy="ranker", max_gmacs=1.0)
    assert named.policy == "ranker"
    assert within is not None


def test_a_budget_that_is_too_small_is_told_one_that_works(served: Served) -> None:
    with pytest.raises(Rejected, match="the smallest possible is ") as refused:
        served.plan(max_gmacs=1e-4)
    smallest = float(refused.value.message.rsplit(" ", 1)[1])
    assert served.plan(max_gmacs=smallest)[1] is not None


def test_a_network_without_a_run_answers_with_constants_only() -> None:
    served = open_served(ServingSettings(network="mobilenet_v2-slim", device="cpu"))
    assert set(served.policies) == {"default", "cheapest"}
    assert served.results is None
    plan, _ = served.plan(max_gmacs=10)
    assert plan.policy == "default"
    costs = Costs(load("mobilenet_v2-slim"), served.portfolio, served.resolution)
    found = answer(served, torch.randn(2, 3, 96, 96), [served.plan(policy="cheapest")[0]] * 2)
    assert found[0].macs == costs.whole.min()


def test_an_unknown_policy_or_configuration_is_refused_with_those_there_are(served: Served) -> None:
    with pytest.raises(Rejected, match="policy must be one of default"):
        served.plan(policy="best")
    with pytest.raises(Rejected, match="configuration must be one of s1-2-2-2"):
        served.plan(configuration="s1")
    with pytest.raises(Rejected, match="without policy"):
        served.plan(policy="default", configuration=served.default.id)
