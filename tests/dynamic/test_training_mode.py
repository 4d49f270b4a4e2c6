"""Training mode is training mode: what a network does there alone, it does when it is dynamic."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

import dynamic
from dynamic import Configuration, UserError
from oracle.training.methods import distillation_step, random_option_step


class DropsInForward(nn.Module):
    """Dropout as a function, stochastic depth as a module, and a branch that only training takes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depth = torchvision.ops.StochasticDepth(0.5, "row")
        self.noise = nn.Parameter(torch.ones(8, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.b(self.a(x)))
        if self.training:
            x = x * self.noise * 3
        x = x + self.depth(x)
        return self.head(F.dropout(x.mean((2, 3)), 0.5, self.training))


def differs_from_call_to_call(network: dynamic.DynamicNetwork, images: Tensor) -> bool:
    with torch.no_grad():
        return not torch.equal(network(images, network.default), network(images, network.default))


def test_functional_dropout_and_stochastic_depth_drop_in_training_only() -> None:
    network = dynamic.load(DropsInForward(), dynamic_layers=["a", "b"])
    images = torch.randn(16, 3, 16, 16)
    assert not differs_from_call_to_call(network, images)
    assert differs_from_call_to_call(network.train(), images)
    with torch.no_grad():  # the same draws as the original's own training forward
        torch.manual_seed(3)
        expected = copy.deepcopy(network.original).train()(images)
        torch.manual_seed(3)
        torch.testing.assert_close(network(images, network.default), expected)
    network(images, Configuration((1, 1), (1, 1), (3, 3))).sum().backward()
    assert network.original.noise.grad is not None  # of the branch that only training takes
    assert not differs_from_call_to_call(network.eval(), images)


SMALL = {
    "timm's fused norms": lambda: timm.create_model("tinynet_e", num_classes=4, drop_rate=0.5, drop_path_rate=0.5),
    "ConvNeXt": lambda: torchvision.models.ConvNeXt(
        [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], stochastic_depth_prob=0.9, num_classes=4
    ),
    "DenseNet": lambda: torchvision.models.DenseNet(4, (2, 2, 2, 2), 8, drop_rate=0.5, num_classes=4),
}


@pytest.mark.parametrize("name", SMALL)
def test_libraries_drop_and_their_statistics_move(name: str) -> None:
    original = SMALL[name]()
    network = dynamic.load(original)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    norms = [module for module in original.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    network.train()
    assert differs_from_call_to_call(network, images)
    optimizer = torch.optim.SGD(original.parameters(), 0.01)
    random_option_step(network, images, labels, network.default)
    distillation_step(network, network, images, labels, [network.default])
    optimizer.step()
    assert all(not torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(images, network.default), original(images))
        torch.testing.assert_close(network.for_inference()(images, network.default), original(images), atol=1e-3, rtol=1e-3)


class WithAuxiliaryHead(DropsInForward):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(self.b(self.a(x))).mean((2, 3))
        return (self.head(x), x.sum(1)) if self.training else self.head(x)


def test_of_what_trains_beside_the_classifier_the_logits_are_kept() -> None:
    network = dynamic.load(WithAuxiliaryHead(), dynamic_layers=["a", "b"])
    assert network.train()(torch.randn(2, 3, 16, 16), network.default).shape == (2, 5)


class FrozenInside(DropsInForward):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.a(x)
        return self.head(self.b(x).mean((2, 3)))


def test_gradients_that_a_trace_would_not_stop_are_refused_in_training() -> None:
    network = dynamic.load(FrozenInside(), dynamic_layers=["a", "b"])
    with pytest.raises(UserError, match=r"forward enters torch.autocast or torch.no_grad, which a trace does not keep"):
        network.train()
