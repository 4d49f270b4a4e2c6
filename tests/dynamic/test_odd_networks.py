"""Networks that people write: whatever loads must compute what the original does, folded, mixed and comprehensive alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynamic
from dynamic import Configuration, UserError


class Block(nn.Module):
    """Two convolutions, a projection, and a head; subclasses wire them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)
        self.gamma = nn.Parameter(torch.rand(8))
        self.other = nn.BatchNorm2d(8)
        for norm in (self.bn, self.other):
            nn.init.normal_(norm.running_mean, std=0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def classify(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class MethodsInPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        y.add_(x)
        y.relu_()
        return self.classify(y)


class PreActivation(Block):
    """The in-place activation changes what the projection read before it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        skip = self.down(x)
        return self.classify(self.b(self.relu(x)) + skip)


class FunctionalInPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        F.relu(y, inplace=True)
        return self.classify(y + x)


class SharedConvolution(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.classify(self.other(self.down(self.bn(self.down(x)) + self.b(x))))


class ReshapedParameter(Block):
    def forward(self, x: Tensor) -> Tensor:
        gamma = self.gamma.reshape(1, -1, 1, 1)
        return self.classify(self.bn(self.b(self.a(x))) * gamma)


class BatchSizeAtTheTop(Block):
    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        height = x.shape[2]
        x = self.bn(self.b(self.a(x))) * height
        return self.head(F.adaptive_avg_pool2d(x, 1).view(n, -1))


class ViewOfAMap(Block):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.bn(self.b(self.a(x))), 2)
        return self.head(x.view(x.size(0), -1))


class FunctionsInPlace(Block):
    """Written before it is read again, in three spellings."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        F.relu(x, True)
        torch.relu_(y)
        z = torch.add(y, x, out=y)
        return self.classify(z * y + x)


class TypesAndSizes(Block):
    """Numbers of a map in front of ``b`` that are asked for behind it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        axis, dtype, device, pixels = x.ndim - 2, x.dtype, x.device, x.numel() // x.size(0)
        y = self.b(x).to(dtype).to(device) / pixels
        return self.head(y.flatten(axis).mean(axis))


NETWORKS = [
    TypesAndSizes,
    FunctionsInPlace,
    MethodsInPlace,
    PreActivation,
    FunctionalInPlace,
    SharedConvolution,
    ReshapedParameter,
    BatchSizeAtTheTop,
    ViewOfAMap,
]


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_way_of_running_agrees(kind: type[Block]) -> None:
    original = kind().eval()
    network = dynamic.load(original, dynamic_layers=["a", "b"])
    images = torch.randn(3, 3, 16, 16)
    changed = Configuration(network.default.stride, (2, 3), (3, 5))
    with torch.no_grad():
        expected = original(images.clone())
        assert torch.equal(network(images, network.default), expected)
        folded = network.for_inference()
        torch.testing.assert_close(folded(images, network.default), expected, atol=1e-4, rtol=1e-4)
        one_by_one = {c: torch.cat([network(images[i : i + 1], c) for i in range(3)]) for c in (network.default, changed)}
        mixed = network(images, [changed, network.default, changed])
        torch.testing.assert_close(mixed[[0, 2]], one_by_one[changed][[0, 2]], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mixed[1], expected[1], atol=1e-4, rtol=1e-4)
        space = list(dynamic.space("dilation", network))
        for columns, logits in folded.comprehensive(images, space):
            torch.testing.assert_close(logits, network(images, space[columns[0]]), atol=1e-3, rtol=1e-3)
    assert network.info.classes == 5
    assert network.macs(network.default, 16) > 16 * 16 * 8 * 3 * 9


class ViewWrittenInPlace(Block):
    """The write goes through a view, which the trace cannot see."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        x[:, :4].mul_(0)
        return self.classify(x)


class Alias(Block):
    """torch.fx records ``z += 1`` as ``z = z + 1``."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        z = y
        z += 1
        return self.classify(y)


class ExtraArgument(Block):
    def forward(self, x: Tensor, scale: float) -> Tensor:
        return self.classify(self.b(self.a(x)) * scale)


def test_what_the_trace_cannot_follow_is_refused() -> None:
    for kind in (ViewWrittenInPlace, Alias):
        with pytest.raises(UserError, match=f"the traced {kind.__name__} does not compute what the original does"):
            dynamic.load(kind(), dynamic_layers=["a", "b"])
    with pytest.raises(UserError, match=r"ExtraArgument.forward takes 'scale' beside the images"):
        dynamic.load(ExtraArgument(), dynamic_layers=["a", "b"])
    with pytest.raises(UserError, match="a would be in two dynamic layers"):
        dynamic.load(PreActivation(), dynamic_layers=["a", "a"])
    with pytest.raises(UserError, match=r"layer2.0.downsample.0 would be in two dynamic layers"):
        dynamic.load("resnet50", weights=None, dynamic_layers=["layer2.0.downsample.0", "layer2.0.conv2"])


class EvenKernels(Block):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(8, 8, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.b(self.a(x)))


def test_even_kernels_run_as_built_and_dilated_but_not_otherwise() -> None:
    network = dynamic.load(EvenKernels(), dynamic_layers=["a", "b"])
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = {
            c: logits
            for columns, logits in network.comprehensive(images, list(dynamic.space("dilation", network)))
            for c in columns
        }
    assert len(found) == 25
    for stride, size in ((0.5, 4), (2, 6)):
        with pytest.raises(UserError, match="gives b an even kernel"):
            network(images, Configuration((1, stride), (1, 1), (3, size)))


def test_every_branch_of_a_concatenation_follows_the_stride() -> None:
    network = dynamic.load("googlenet", weights=None, dynamic_layers=["inception3a.branch2.1.conv"])
    assert len(network.program.sites) == 4
    with torch.no_grad():
        for stride in (0.5, 2, 3):
            assert network(torch.randn(1, 3, 96, 96), Configuration((stride,), (1,), (3,))).shape == (1, 1000)


def test_timm_networks_with_layer_scale() -> None:
    network = dynamic.load(
        "timm/convnext_atto", weights=None, dynamic_layers=["stages.1.blocks.0.conv_dw", "stages.2.blocks.0.conv_dw"]
    )
    images = torch.randn(3, 3, 64, 64)
    configurations = [network.default, Configuration((1, 1), (2, 1), (7, 5)), Configuration((1, 1), (2, 2), (7, 7))]
    with torch.no_grad():
        mixed = network(images, configurations)
        for i, configuration in enumerate(configurations):
            torch.testing.assert_close(mixed[i], network(images[i : i + 1], configuration)[0], atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_input_after_inference() -> None:
    network = dynamic.load("resnet50-slim")
    network.requires_grad_(False)
    configuration = Configuration((1, 2, 2, 2), (1, 1, 1, 1), (3, 3, 3, 5))
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        network(images, configuration)
    images.requires_grad_()
    network(images, configuration).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


class AliasOfASharedMap(Block):
    """What is written in place is a view of a map that ``b`` reads under every one of its options."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        alias = x.view(y.size(0), 8, y.size(2), y.size(3))
        F.relu(alias, True)
        return self.classify(y + alias)


def test_what_one_branch_writes_no_other_reads() -> None:
    network = dynamic.load(AliasOfASharedMap(), dynamic_layers=["b"])
    images, space = torch.randn(2, 3, 16, 16), list(dynamic.space("dilation", network))
    with torch.no_grad():
        for columns, logits in network.comprehensive(images, space, max_rows=1):
            torch.testing.assert_close(logits, network(images, space[columns[0]]), atol=1e-6, rtol=1e-6)


class WritesElsewhere(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        return self.classify(torch.add(y, y, out=x))


class UnknownInPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(double_(self.b(self.a(x))))


@torch.fx.wrap
def double_(x: Tensor) -> Tensor:
    return x.mul_(2)


def test_writes_that_cannot_be_undone_are_named() -> None:
    with pytest.raises(UserError, match="add writes into a tensor given as out="):
        dynamic.load(WritesElsewhere(), dynamic_layers=["a", "b"])
    with pytest.raises(UserError, match="calls double_, which writes into its operand"):
        dynamic.load(UnknownInPlace(), dynamic_layers=["a", "b"])


class Joins(Block):
    """A shortcut that must follow its block's stride, however the two are joined."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.join = join
        self.b = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.down = nn.Conv2d(8, 8, 1, stride=2)
        self.head = nn.Linear(16 if join.startswith("concat") else 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y, shortcut = self.b(x), self.down(x)
        match self.join:
            case "concat":
                return self.classify(torch.concat([y, shortcut], dim=1))
            case "concatenate":
                return self.classify(torch.concatenate((y, shortcut), 1))
            case "-":
                return self.classify(y - shortcut)
            case "sub_":
                return self.classify(y.sub_(shortcut))
        return self.classify(torch.subtract(y, shortcut))


@pytest.mark.parametrize("join", ["concat", "concatenate", "-", "sub_", "subtract"])
def test_shortcuts_follow_whatever_joins_them(join: str) -> None:
    network = dynamic.load(Joins(join), dynamic_layers=["b"])
    assert [site.name for site in network.program.sites] == ["down", "b"]
    with torch.no_grad():
        for stride in (0.5, 1, 3):
            assert network(torch.randn(2, 3, 16, 16), Configuration((stride,), (1,), (3,))).shape == (2, 5)


class BatchStatistics(Block):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.bn(self.b(self.a(x))))


class FunctionalBatchStatistics(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(F.batch_norm(self.b(self.a(x)), None, None, training=True))


class MeanOfTheBatch(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.classify(self.b(x) - x.mean(0, keepdim=True))


def test_networks_whose_images_depend_on_each_other_are_refused() -> None:
    with pytest.raises(UserError, match="bn has no running statistics"):
        dynamic.load(BatchStatistics(), dynamic_layers=["a", "b"])
    for kind in (FunctionalBatchStatistics, MeanOfTheBatch):
        with pytest.raises(UserError, match=f"{kind.__name__} answers an image otherwise when others are beside it"):
            dynamic.load(kind(), dynamic_layers=["a", "b"])
