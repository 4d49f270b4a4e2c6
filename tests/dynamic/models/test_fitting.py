"""Which tensors of a file are which of a network: old names, other numbers of classes, auxiliary heads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import dynamic
from dynamic import UserError
from dynamic.models import build, restore

LAST = {
    "squeezenet1_1": "features.0",
    "mobilenet_v3_small": "features.0.0",
    "efficientnet_b0": "features.0.0",
    "timm/mobilenetv3_small_050": "conv_stem",
    "timm/efficientnet_lite0": "conv_stem",
    "timm/regnetx_002": "stem.conv",
}
"""Networks whose heads are not a linear layer called fc, with a layer each."""


def old_names(name: str) -> str:
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)", r"\1.\2", name)


@pytest.mark.slow
def test_densenets_of_2017(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stored = build("densenet121-slim").state_dict()
    old = {old_names(key): value for key, value in stored.items() if not key.endswith("num_batches_tracked")}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    images = torch.randn(2, 3, 96, 96)
    torch.save(stored, tmp_path / "new.pth")
    first, second = (dynamic.load("densenet121-slim", weights=tmp_path / f"{name}.pth") for name in ("old", "new"))
    assert torch.equal(first(images, first.default), second(images, second.default))
    torch.save({f"module.{key}": value for key, value in old.items()}, tmp_path / "old.pth")
    assert dynamic.load("densenet121-slim", weights=tmp_path / "old.pth").digest == first.digest


@pytest.mark.slow
def test_the_official_densenets_as_torchvision_loads_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stored = build("densenet121").state_dict()
    torch.save({old_names(key): value for key, value in stored.items()}, tmp_path / "densenet121-a639ec97.pth")
    network = dynamic.load("densenet121", weights=tmp_path / "densenet121-a639ec97.pth")
    assert all(torch.equal(value, stored[key]) for key, value in network.original.state_dict().items())


@pytest.mark.parametrize("name", sorted(LAST))
def test_the_number_of_classes_is_read_off_any_head(tmp_path: Path, name: str) -> None:
    stored = build(name, 7).state_dict()
    torch.save(stored, tmp_path / "seven.pth")
    network = dynamic.load(name, weights=tmp_path / "seven.pth", dynamic_layers=[LAST[name]])
    assert network.info.classes == 7
    assert all(torch.equal(value, stored[key]) for key, value in network.original.state_dict().items())
    with pytest.raises(UserError, match="has 7 classes, not the 5 asked for"):
        dynamic.load(name, weights=tmp_path / "seven.pth", dynamic_layers=[LAST[name]], classes=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "side"), [("googlenet", "conv2.conv", 64), ("inception_v3", "Conv2d_2a_3x3.conv", 96)]
)
def test_auxiliary_heads_and_scaled_inputs(
    tmp_path: Path, name: str, layer: str, side: int, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    original = build(name, 7).eval()
    assert original.transform_input
    images = torch.randn(2, 3, side, side)
    stored = original.state_dict()
    without = {key: value for key, value in stored.items() if not key.lower().startswith("aux")}
    assert len(without) < len(stored)
    with torch.inference_mode():
        expected = original(images)
    for kept in (stored, without):
        torch.save(kept, tmp_path / "mine.pth")
        network = dynamic.load(name, weights=tmp_path / "mine.pth", dynamic_layers=[layer])
        assert network.info.classes == 7
        assert network.original.state_dict().keys() == kept.keys()
        torch.testing.assert_close(network.original(images), expected, rtol=0, atol=0)
        assert ("without auxiliary heads" in capsys.readouterr().err) == (kept is without)
        again = dynamic.models.restore(name, kept, 7, [layer], weights="kept", preprocessing=network.info.preprocessing)
        assert again.digest == network.digest


def test_classes_that_the_weights_do_not_have_are_refused() -> None:
    with pytest.raises(UserError, match=r"ResNet50_Weights.IMAGENET1K_V1 has 1000 classes, not the 7 asked for"):
        dynamic.load("resnet50", "IMAGENET1K_V1", classes=7)
    with pytest.raises(UserError, match="has 10 classes, not the 7 asked for"):
        dynamic.load("resnet50-slim", classes=7)


def test_modules_that_ask_for_the_version_of_their_format(tmp_path: Path) -> None:
    stored = build("mnasnet0_5", 7).state_dict()
    save_file(stored, tmp_path / "mine.safetensors")
    network = dynamic.load("mnasnet0_5", tmp_path / "mine.safetensors", ["layers.8.0.layers.3"])
    kept = {key: value.clone() for key, value in network.original.state_dict().items()}
    assert all(torch.equal(kept[key], stored[key]) for key in stored)
    info = network.info
    again = restore("mnasnet0_5", kept, 7, network.dynamic_layers, weights="x", preprocessing=info.preprocessing)
    assert again.digest == network.digest
