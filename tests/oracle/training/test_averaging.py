"""Averaged weights: what is averaged, their batch norms, and who teaches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import dynamic
from dynamic import UserError
from dynamic.scenes import FashionScenes
from oracle.data.training_images import open_training_images
from oracle.training.averaging import averaged, estimate_norms
from oracle.training.methods import distillation_step
from oracle.training.settings import RofSettings


def test_weights_and_statistics_are_averaged() -> None:
    network = dynamic.load("resnet50-slim")
    average = averaged(network, 0.75)
    start = {name: tensor.clone() for name, tensor in network.original.state_dict().items()}
    average.weights.update_parameters(network.original)  # the first is taken as it is
    for parameter in network.original.parameters():
        parameter.data.add_(0.004)
    network.original.bn1.running_mean.add_(0.004)  # type: ignore[operator, union-attr]
    average.weights.update_parameters(network.original)
    found = average.network.original.state_dict()
    for name in ("conv1.weight", "layer4.0.conv2.weight", "bn1.running_mean"):
        torch.testing.assert_close(found[name], start[name] + 0.001)
    assert torch.equal(found["layer2.0.bn1.running_var"], start["layer2.0.bn1.running_var"])
    images = FashionScenes("label", count=4).render(range(4))
    again = dynamic.load("resnet50-slim")
    again.original.load_state_dict(found)
    with torch.inference_mode():  # the dynamic network computes with them
        for configuration in (again.default, *dynamic.space("stride", again)[:1]):
            assert torch.equal(average.network(images, configuration), again(images, configuration))


def test_norms_are_estimated_for_the_default(training_folder: Path) -> None:
    network = dynamic.load("resnet50-slim")
    images = open_training_images("fashion-scenes", network.info, training_folder, None, 48, 0)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.fill_(100)  # type: ignore[union-attr]
    weights = [parameter.clone() for parameter in network.parameters()]
    estimate_norms(network, images, 48, 0)
    assert all(torch.equal(one, other) for one, other in zip(weights, network.parameters(), strict=True))
    assert not any(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    batches = [batch for batch, _ in images.batches(0, [torch.arange(48).numpy()])]
    with torch.no_grad():
        mean = network.original.conv1(batches[0]).mean(dim=(0, 2, 3))  # type: ignore[operator]
    torch.testing.assert_close(network.original.bn1.running_mean, mean, rtol=1e-3, atol=1e-3)  # type: ignore[union-attr]
    assert network.original.bn1.momentum == 0.1  # type: ignore[union-attr]


def test_another_network_may_teach() -> None:
    scenes = FashionScenes("label", count=4)
    images, labels = scenes.render(range(4)), torch.from_numpy(scenes.labels)
    network, teacher = dynamic.load("resnet50-slim").train(), dynamic.load("resnet50-slim", weights="distillation-ladder")
    heard = []

    def loss(learned: torch.Tensor, taught: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        heard.append(taught)
        return learned.sum() * 0

    distillation_step(network, network, images, labels, [network.default], teacher=teacher, loss=loss)
    with torch.inference_mode():
        assert torch.equal(heard[0], teacher(images, teacher.default))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "average"}, "--teacher average needs --average"),
        ({"average": 1.0}, "--average must be at least 0 and less than 1, not 1.0"),
        ({"label_weight": 1.5}, "--label-weight must be between 0 and 1, not 1.5"),
        ({"deferral_weight": -0.5}, "--deferral-weight must be between 0 and 1, not -0.5"),
        ({"temperature": 0.0}, "--temperature must be positive, not 0.0"),
        ({"warm_up_steps": -1}, "--warm-up-steps must not be negative, as -1 is"),
        ({"schedule": "stable", "epochs": 2, "decay_epochs": 3}, "--decay-epochs 3 must be at most --epochs, which is 2"),
        ({"epoch_images": 0}, "--epoch-images must be at least 1, not 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RofSettings(**changes)  # type: ignore[arg-type]
