"""Layers are proposed where a network strides, and only such as can vary."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import dynamic
from dynamic import UserError
from dynamic.models import DYNAMIC_LAYERS, build
from dynamic.sites import propose
from tests.conftest import settled


@pytest.mark.parametrize("name", DYNAMIC_LAYERS)
def test_the_papers_rule_gives_the_papers_layers(name: str) -> None:
    assert tuple(propose(settled(f"{name}-slim"))) == DYNAMIC_LAYERS[name]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        # A stage without stride, beside identities: its pool strides in its place.
        ("resnet18", "maxpool+layer1.0.conv1 layer2.0.conv1 layer3.0.conv1 layer4.0.conv1"),
        ("vgg11", "features.2+features.3 features.5+features.6 features.10+features.11 features.15+features.16"),
        ("alexnet", "features.2+features.3 features.5+features.6 features.12"),
        ("shufflenet_v2_x0_5", "maxpool stage2.0.branch1.0 stage3.0.branch1.0 stage4.0.branch1.0"),
        # Strides between stages are of 2 x 2 kernels, which have no centre.
        ("timm/convnext_atto", " ".join(f"stages.{i}.blocks.0.conv_dw" for i in range(4))),
        ("timm/resnetv2_50x1_bit", " ".join(f"stages.{i}.blocks.0.conv2" for i in range(4))),
    ],
)
def test_other_networks(name: str, layers: str) -> None:
    assert propose(build(name)) == layers.split()


class Cifar(nn.Module):
    """No stride in the stem and the first stage; two stages that stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.stage = nn.Conv2d(4, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, 2, 1)
        self.odd = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.deep = nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.stage(x) + x
        return self.head(self.deep(self.odd(self.down(x))).mean((2, 3)))


def test_a_stage_without_stride_joins_where_they_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert propose(Cifar()) == ["stage", "down", "deep"]
    network = dynamic.DynamicNetwork(Cifar(), propose(Cifar()))
    assert network.fixed.keys() == {(0, "stride")}


def test_load_uses_them_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    network = dynamic.load("shufflenet_v2_x0_5", weights=None, classes=2)
    assert network.dynamic_layers[0] == "maxpool"
    assert capsys.readouterr().err == (
        "shufflenet_v2_x0_5: dynamic layers proposed: maxpool,stage2.0.branch1.0,stage3.0.branch1.0,stage4.0.branch1.0 "
        "(--dynamic-layers names others)\n"
    )


def test_refusals_name_the_true_reason() -> None:
    vit = torchvision.models.VisionTransformer(32, 16, 1, 1, 8, 8, num_classes=2)
    with pytest.raises(
        UserError, match=r"VisionTransformer has no layer .* behind conv_proj, its first, it has no convolution"
    ):
        propose(vit)
    network = dynamic.DynamicNetwork(vit, ["conv_proj"])
    with pytest.raises(UserError, match=r"conv_proj an even kernel, which has no centre"):
        network.check(dynamic.Configuration((2,), (1,), (16,)))
    with pytest.raises(UserError, match=r"Linear has no convolution and no pool"):
        propose(nn.Linear(3, 2))


def test_several_branches_and_joins_follow_one_stride() -> None:
    """timm's Res2Net splits a block in four, pools one part and projects beside them all."""
    network = dynamic.load(
        timm.models.res2net.ResNet(
            timm.models.res2net.Bottle2neck, [1, 1, 1, 1], base_width=4, num_classes=2, block_args={"scale": 4}
        ),
        dynamic_layers=["layer2.0.convs.0"],
    )
    names = {site.name for site in network.program.sites}
    assert {"layer2.0.convs.1", "layer2.0.convs.2", "layer2.0.pool", "layer2.0.downsample.0"} < names
    with torch.no_grad():
        for stride in (1, 3):
            assert network(torch.zeros(1, 3, 64, 64), dynamic.Configuration((stride,), (1,), (3,))).shape == (1, 2)
