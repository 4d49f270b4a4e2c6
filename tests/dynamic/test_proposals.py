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


class Stubborn(nn.Module):
    """Convolutions behind the first of which none can be dynamic, each for its own reason."""

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        layers: list[nn.Module] = []
        for kind in kinds:
            oblong = kind == "oblong"
            layer = nn.Conv2d(4, 4, (1, 3) if oblong else 3, padding=(0, 1) if oblong else 1)
            if kind == "hooks":
                layer.register_forward_hook(lambda module, inputs, made: made * 2)
            if kind == "normed":
                nn.utils.weight_norm(layer)
            layers += [layer] * (2 if kind == "twice" else 1)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.stem(x)).mean((2, 3)))
        return logits


def test_where_no_layer_can_vary_the_reasons_are_listed() -> None:
    with pytest.raises(UserError) as refusal:
        propose(Stubborn("hooks", "oblong", "twice"))
    for reason in ("'layers.0' has hooks", "'layers.2' is called 2 times", r"kernel_size (1, 3) of Conv2d"):
        assert reason in str(refusal.value)
    with pytest.raises(UserError) as refusal:
        propose(Stubborn("hooks", "hooks", "hooks", "hooks"))
    assert str(refusal.value).count("has hooks") == 3


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("layers", [None, ["layers.0"]])
def test_a_weight_that_a_hook_computes_is_to_be_baked_in(layers: list[str] | None) -> None:
    network = Stubborn("normed")
    with pytest.raises(UserError, match=r"layers.0'? is computed by a hook \(.*\): bake it in first, .*remove_weight_norm"):
        dynamic.load(network, dynamic_layers=layers)
    nn.utils.remove_weight_norm(network.layers[0])
    assert dynamic.load(network, dynamic_layers=layers).for_inference()


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
