from __future__ import annotations

import numpy as np
import pytest
import torch

from dynamic.configuration import Configuration
from dynamic.models import load
from selector.observation.costs import Costs
from selector.observation.images import LiveImages
from selector.policies.running import run_policy
from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.opening import open_deployment
from serving.inference.plans import FORCED, Plan
from serving.settings import ServingSettings
from tests.plain_loop import plain_loop


def forced(configuration: Configuration) -> Plan:
    return Plan(policy=FORCED, configuration=configuration)


@pytest.mark.slow
def test_every_image_of_a_mixed_batch_gets_what_a_plain_static_network_says() -> None:
    """No recalibration: the reference is the original module with its strides set by hand."""
    settings = ServingSettings(network="resnet50-slim", device="cpu")
    deployment = open_deployment(settings)
    images = np.random.default_rng(0).standard_normal((6, 3, 96, 96), np.float32)
    chosen = [deployment.configurations[position] for position in (0, 7, 7, 150, 300, 360)]
    answers = answer(deployment, images, [forced(c) for c in chosen])
    original = load("resnet50-slim").original
    for image, configuration, found in zip(images, chosen, answers, strict=True):
        with torch.inference_mode():
            expected = plain_loop(original, "resnet50-slim", [configuration], torch.from_numpy(image[None]))[0, 0].softmax(0)
        assert np.allclose(found.probabilities, expected.numpy(), atol=2e-3)  # half precision
        assert found.configuration == configuration
        assert found.macs == deployment.macs(configuration)


@pytest.mark.parametrize(
    "name", ["cascade", "correctness", "neighbours", "head", "stagewise", "top_two", "averaging", "stacking"]
)
def test_each_policy_answers_as_the_benchmark_plays_it(
    deployment: Deployment, eager: Deployment, images: np.ndarray, name: str
) -> None:
    """By graphs, and by PyTorch without the service around it."""
    plan, _ = plan_request(deployment, policy=name)
    answers = answer(deployment, images, [plan] * len(images))
    session = eager.network.session(images)
    live = LiveImages(session, images, eager.portfolio, eager.default, eager.costs)
    outcome = run_policy(eager.policies[name], live, plan.dial)
    assert [deployment.portfolio.index(a.configuration) for a in answers] == outcome.columns.tolist()
    assert [int(a.probabilities.argmax()) for a in answers] == outcome.predicted.tolist()
    assert np.allclose([a.macs for a in answers], outcome.macs)


def test_policies_and_forced_configurations_share_a_batch_and_change_nothing_for_each_other(
    deployment: Deployment, images: np.ndarray
) -> None:
    plans = [
        plan_request(deployment, policy="cascade")[0],
        plan_request(deployment, policy="default")[0],
        forced(deployment.portfolio[3]),
    ]
    mixed = [plans[row % 3] for row in range(len(images))]
    together = answer(deployment, images, mixed)
    for position, plan in enumerate(plans):
        alone = answer(deployment, images[position::3], [plan] * len(images[position::3]))
        for a, b in zip(together[position::3], alone, strict=True):
            assert a.configuration == b.configuration
            assert a.macs == b.macs
            assert np.allclose(a.probabilities, b.probabilities, atol=2e-3)


def test_work_is_shared_and_counted_once(deployment: Deployment, images: np.ndarray) -> None:
    plan, _ = plan_request(deployment, policy="top_two")
    found = answer(deployment, images[:8], [plan] * 8)
    for each in found:
        assert each.selector_macs >= 0
        assert each.macs < 2 * deployment.macs(deployment.default) + 2e6


@pytest.mark.slow
def test_a_network_without_a_run_answers_with_constants_only() -> None:
    deployment = open_deployment(ServingSettings(network="mobilenet_v2-slim", device="cpu"))
    assert set(deployment.policies) == {"default", "cheapest"}
    assert deployment.results is None
    plan, _ = plan_request(deployment, max_gmacs=10)
    assert plan.policy == "default"
    costs = Costs(load("mobilenet_v2-slim"), deployment.portfolio, deployment.resolution)
    found = answer(
        deployment,
        np.random.default_rng(0).standard_normal((2, 3, 96, 96), np.float32),
        [plan_request(deployment, policy="cheapest")[0]] * 2,
    )
    assert found[0].macs == costs.whole.min()
