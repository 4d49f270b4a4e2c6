from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

import dynamic
from dynamic import UserError
from dynamic.models import build, class_names, restore


def test_checkpoints_in_both_formats_and_their_class_count(tmp_path: Path) -> None:
    stored = build("mobilenet_v2-slim", 7).state_dict()
    save_file(stored, tmp_path / "seven.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in stored.items()}, "epoch": 3}, tmp_path / "seven.pth")
    for name in ("seven.safetensors", "seven.pth"):
        network = dynamic.load("mobilenet_v2-slim", weights=tmp_path / name)
        assert network.info.classes == 7
        assert all(torch.equal(value, stored[key]) for key, value in network.original.state_dict().items())
    with pytest.raises(UserError, match="has 7 classes, not the 5 asked for"):
        dynamic.load("mobilenet_v2-slim", weights=tmp_path / "seven.pth", classes=5)


def test_bad_checkpoints_are_named(tmp_path: Path) -> None:
    save_file(build("resnet50-slim").state_dict(), tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    torch.save(build("resnet50-slim").state_dict(), tmp_path / "good.pth")
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:5000])
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("cut.safetensors", "cut.pth"):
        with pytest.raises(UserError, match=rf"{name} is truncated"):
            dynamic.load("resnet50-slim", weights=tmp_path / name)
    with pytest.raises(UserError, match="holds no tensors by name"):
        dynamic.load("resnet50-slim", weights=tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"is not a checkpoint of mobilenet_v2-slim: it lacks .* more; it has unknown"):
        dynamic.load("mobilenet_v2-slim", weights=tmp_path / "good.pth")
    with pytest.raises(UserError, match=r"no checkpoint .*missing.pth: pass an existing"):
        dynamic.load("resnet50-slim", weights=tmp_path / "missing.pth")
    stored = build("resnet50-slim").state_dict()
    stored["conv1.weight"] = stored["conv1.weight"][:, :1].clone()
    save_file(stored, tmp_path / "grey.safetensors")
    with pytest.raises(UserError, match=r"conv1.weight is \(16, 1, 7, 7\), not \(16, 3, 7, 7\)"):
        dynamic.load("resnet50-slim", weights=tmp_path / "grey.safetensors")


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(UserError, match=r"unknown model 'resnet5': choose from resnet50-slim, .*resnet50"):
        dynamic.load("resnet5")
    with pytest.raises(UserError, match=r"unknown weights 'V3' for resnet50: choose from IMAGENET1K_V1, IMAGENET1K_V2"):
        dynamic.load("resnet50", weights="V3")
    with pytest.raises(UserError, match="timm has no model 'resnet0'; near it: "):
        dynamic.load("timm/resnet0", weights=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "mobilenet_v2", "densenet121"])
def test_embedded_weights_classify_scenes(name: str) -> None:
    from dynamic.training.scratch import accuracy

    network = dynamic.load(f"{name}-slim")
    assert network.info.slim
    assert accuracy(network.original, "test", "cpu", images=500) > 0.7


def test_random_weights_follow_the_seed() -> None:
    torch.manual_seed(3)
    first = dynamic.load("resnet50-slim", weights=None)
    torch.manual_seed(3)
    assert first.digest == dynamic.load("resnet50-slim", weights=None).digest
    assert first.digest != dynamic.load("resnet50-slim", weights=None).digest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "size"), [("inception_v3", "mine.pth", 299), ("resnet50", "resnet50-11ad3fa6.pth", 224)]
)
def test_checkpoints_come_with_the_models_transform(tmp_path: Path, name: str, file: str, size: int) -> None:
    torch.save(build(name).state_dict(), tmp_path / file)
    layers = None if name == "resnet50" else ["Conv2d_2a_3x3.conv"]
    info = dynamic.load(name, weights=tmp_path / file, dynamic_layers=layers).info
    assert info.resolution == size
    # The second file bears the name of IMAGENET1K_V2's, which wants another size before the crop.
    assert info.preprocessing.resize == {"mine.pth": 342, "resnet50-11ad3fa6.pth": 232}[file]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_registered_name_comes_before_what_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of the weights, and of the slim networks' embedded ones; ``./NAME`` is the file."""
    monkeypatch.chdir(tmp_path)
    for name in ("IMAGENET1K_V1", "default", "rof-stride"):
        (tmp_path / name).mkdir() if kind == "folder" else (tmp_path / name).write_bytes(b"no checkpoint")
    fetched = []

    def get_model(name: str, weights: object = None, **options: object) -> torch.nn.Module:
        fetched.append(str(weights))
        return torchvision.models.resnet18()

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.models.get_model", get_model)
        info = dynamic.load("resnet18", weights="IMAGENET1K_V1", dynamic_layers=["layer4.0.conv1"]).info
    assert fetched == ["ResNet18_Weights.IMAGENET1K_V1"]
    assert info.registered == "IMAGENET1K_V1"
    for name in ("default", "rof-stride"):
        assert dynamic.load("resnet50-slim", weights=name).info.registered == name
    with pytest.raises(UserError, match="default is a folder" if kind == "folder" else "not a checkpoint"):
        dynamic.load("resnet50-slim", weights="./default")


@pytest.mark.parametrize(
    ("name", "classes", "layers"),
    [("resnet50-slim", 7, None), ("resnet18", 7, ["layer4.0.conv1"]), ("timm/resnet18", 5, ["layer4.0.conv1"])],
)
def test_a_network_is_restored_from_its_tensors(name: str, classes: int, layers: list[str] | None) -> None:
    network = dynamic.load(name, weights=None, dynamic_layers=layers, classes=classes)
    assert network.info.registered is None
    state, info = network.original.state_dict(), network.info
    again = restore(name, state, classes, network.dynamic_layers, weights=info.weights, preprocessing=info.preprocessing)
    assert (again.digest, again.info) == (network.digest, info)
    with pytest.raises(UserError, match=f"the weights kept of {name} is not a checkpoint of {name}: .* is .*, not"):
        restore(name, state, classes + 1, network.dynamic_layers, weights=info.weights, preprocessing=info.preprocessing)


@pytest.mark.slow
def test_classes_are_called_what_people_call_them() -> None:
    slim = dynamic.load("resnet50-slim").info
    assert class_names(slim)[-1] == "ankle boot"
    full = dynamic.load("resnet50", weights=None).info
    assert class_names(full)[281] == "tabby"
    assert class_names(dynamic.load("resnet50", weights=None, classes=3).info) == ("class 0", "class 1", "class 2")


def test_a_loaded_network_can_be_sent_to_another_process() -> None:
    transform = pickle.loads(pickle.dumps(dynamic.load("resnet50-slim").info.preprocessing))
    assert transform(Image.new("RGB", (200, 150))).shape == (3, 96, 96)
