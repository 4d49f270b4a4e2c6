"""Networks of one's own, from a file or a package: what is loaded, and what is told where the code is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamic
from dynamic import UserError
from dynamic.models import NetworkSettings, build, class_names, identity_of, load_network, restore
from dynamic.preprocessing import imagenet_preprocessing
from tests.own_networks import LAYERS, NETWORK, write_network


def test_a_function_in_a_file(tmp_path: Path) -> None:
    file = write_network(tmp_path)
    torch.manual_seed(0)
    original = build(f"{file}:build", 7).eval()
    torch.save({"model": original.state_dict()}, tmp_path / "best.pth")
    images = torch.randn(2, 3, 48, 48)
    for weights in (tmp_path / "best.pth", str(tmp_path / "best.pth")):
        network = dynamic.load(f"{file}:build", weights, LAYERS)
        assert torch.equal(network(images, network.default), original(images))
    info = network.info
    assert (info.name, info.classes, info.registered, info.file) == ("my_net.py:build", 7, None, file)
    assert (info.library, info.own, info.code) == (False, False, file.read_bytes())
    again = restore(info.name, original.state_dict(), 7, LAYERS, weights="x", preprocessing=info.preprocessing, file=file)
    assert again.digest == network.digest


def test_what_the_function_returns_keeps_its_weights(tmp_path: Path) -> None:
    file = write_network(
        tmp_path, NETWORK + "\n\ndef ones():\n    net = build()\n    nn.init.ones_(net[0].weight)\n    return net\n"
    )
    network = dynamic.load(f"{file}:ones", dynamic_layers=LAYERS)
    assert (network.original[0].weight == 1).all()  # type: ignore[index]
    assert network.info.weights == "as built"
    torch.save(nn.Sequential(nn.Conv2d(1, 1, 1)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth is not a checkpoint of .*my_net.py:ones: it lacks 1.bias"):
        dynamic.load(f"{file}:ones", tmp_path / "other.pth", LAYERS)
    torch.save(build(f"{file}:build", 5).state_dict(), tmp_path / "five.pth")
    with pytest.raises(UserError, match=r"has 5 classes, .*:ones makes 10: give the function an argument called classes"):
        dynamic.load(f"{file}:ones", tmp_path / "five.pth", LAYERS)
    with pytest.raises(UserError, match=r"my_net.py:ones has 10 classes, not the 6 asked for"):
        dynamic.load(f"{file}:ones", dynamic_layers=LAYERS, classes=6)
    with pytest.raises(UserError, match=r"five.pth has 5 classes, not the 6 asked for"):
        dynamic.load(f"{file}:build", tmp_path / "five.pth", LAYERS, classes=6)


def test_a_function_that_must_be_told_the_number_of_classes(tmp_path: Path) -> None:
    file = write_network(tmp_path, NETWORK.replace("classes=10", "classes"))
    torch.save(build(f"{file}:build", 6).state_dict(), tmp_path / "six.pth")
    assert dynamic.load(f"{file}:build", tmp_path / "six.pth", LAYERS).info.classes == 6
    with pytest.raises(UserError, match="must be told the number of classes: give it a default, or pass --weights FILE"):
        dynamic.load(f"{file}:build", dynamic_layers=LAYERS)


def test_a_class_a_network_and_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_class = (
        "class Net(nn.Sequential):\n    def __init__(self, num_classes=3):\n        super().__init__(*build(num_classes))"
    )
    write_network(tmp_path, f"{NETWORK}\nmade = build(4)\n\n{own_class}\n")
    assert dynamic.load(f"{tmp_path}/my_net.py:made", dynamic_layers=LAYERS).info.classes == 4
    assert dynamic.load(f"{tmp_path}/my_net.py:Net", dynamic_layers=LAYERS, classes=8).info.classes == 8
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    write_network(tmp_path / "my_package")
    monkeypatch.syspath_prepend(tmp_path)
    network = dynamic.load("my_package.my_net:build", dynamic_layers=LAYERS)
    assert (network.info.name, network.info.file) == ("my_package.my_net:build", None)
    assert network.info.neighbours.keys() == {"my_package", "my_package.my_net"}
    assert identity_of(network.info).keys() == {"network_file", "network_neighbours"}
    with pytest.raises(UserError, match=r"my_package.my_net has no 'biuld'; did you mean build\?"):
        dynamic.load("my_package.my_net:biuld", dynamic_layers=LAYERS)
    with pytest.raises(UserError, match=r"no_package.nets: needs the module 'no_package', which is not found"):
        dynamic.load("no_package.nets:build", dynamic_layers=LAYERS)


def test_neighbours_are_found_and_kept_apart(tmp_path: Path) -> None:
    """Two files, each with a neighbour of the same name, that is imported when the function is called."""
    identities = []
    for number in (3, 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "blocks.py").write_text(f"classes = {number}\n")
        file = write_network(folder, NETWORK + "\n\ndef mine():\n    import blocks\n\n    return build(blocks.classes)\n")
        network = dynamic.load(f"{file}:mine", dynamic_layers=LAYERS)
        assert (network.info.classes, network.info.neighbours.keys()) == (number, {"blocks.py"})
        assert sorted(path.name for path in folder.iterdir()) == ["blocks.py", "my_net.py"]
        identities.append(identity_of(network.info))
    assert identities[0] != identities[1]
    assert sys.path[0] != str(folder)
    own = [path for path in sys.path if path.startswith(str(tmp_path))]
    assert own == [str(tmp_path / "5"), str(tmp_path / "3")]


def test_a_neighbour_that_is_changed_or_imported_in_forward(tmp_path: Path) -> None:
    lazy = NETWORK.replace("return nn.Sequential", "return Net").replace(
        "\n\ndef build",
        """
class Net(nn.Sequential):
    def forward(self, x):
        from late import scale
        return super().forward(x) * scale

def build""",
    )
    file = write_network(tmp_path, lazy)
    seen = []
    for scale in (1, 2):
        (tmp_path / "late.py").write_text(f"scale = {scale}.0\n")
        torch.manual_seed(0)
        network = dynamic.load(f"{file}:build", dynamic_layers=LAYERS)
        assert network.info.neighbours.keys() == {"late.py"}
        network.train()  # is traced anew
        seen.append((identity_of(network.info), network.eval()(torch.ones(1, 3, 32, 32), network.default)))
    assert seen[0][0] != seen[1][0]
    assert torch.equal(seen[0][1] * 2, seen[1][1])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def build(:\n", r"my_net.py, line 1: SyntaxError: invalid syntax"),
        ("\nimport no_such\n", r"my_net.py, line 2: needs the module 'no_such', which is not found: it must lie beside it"),
        ("from torch import no_such\n", r"my_net.py, line 1: ImportError: cannot import name 'no_such' from 'torch'"),
        ("def build():\n    x = {}\n    return x['a']\n", r"my_net.py, line 3: KeyError: 'a'"),
        ("def build():\n    return build()\n", r"my_net.py, line 2: RecursionError"),
        ("def build():\n    return [1]\n", r"my_net.py:build gave a list: it must return a torch.nn.Module"),
        ("def build():\n    pass\n", r"my_net.py:build gave None: it must return a torch.nn.Module"),
        ("build = 3\n", r"my_net.py:build is a int: it must be a function that returns a torch.nn.Module"),
        (
            "def build(depth, width):\n    pass\n",
            r"my_net.py:build needs depth, width: it must take no argument, or classes",
        ),
        ("def built():\n    pass\n", r"my_net.py has no 'build'; did you mean built\?"),
        ("def zzz():\n    pass\n", r"my_net.py has no 'build'; it has zzz"),
        ("x = 1\n", r"my_net.py has no 'build'$"),
        ("import sys\nsys.exit(3)\n", r"my_net.py, line 2: ended the program"),
        ("import torch\n\ndef build():\n    return torch.nn.Conv2d(1, 1, -1)\n", r"my_net.py, line 4: "),
        ("import beside\n", r"beside.py, line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_wrong_in_the_code_is_one_line(tmp_path: Path, code: str, told: str) -> None:
    (tmp_path / "beside.py").write_text("\n1 / 0\n")
    file = write_network(tmp_path, code)
    with pytest.raises(UserError, match=told) as caught:
        dynamic.load(f"{file}:build", dynamic_layers=LAYERS)
    assert "\n" not in str(caught.value)


def test_names_that_are_no_code(tmp_path: Path) -> None:
    file = write_network(tmp_path)
    with pytest.raises(UserError, match=r"my_net.py is a file: say which function in it, .*my_net.py:NAME; it has build$"):
        dynamic.load(str(file))
    with pytest.raises(UserError, match=r"no file .*other.py: name an existing one"):
        dynamic.load(f"{tmp_path}/other.py:build")
    with pytest.raises(UserError, match="unknown model 'my net:build'"):
        dynamic.load("my net:build")


def test_classes_of_a_network_of_ones_own_are_numbers(tmp_path: Path) -> None:
    file = write_network(tmp_path)
    info = dynamic.load(f"{file}:build", dynamic_layers=LAYERS, classes=1000).info
    assert class_names(info)[281] == "class 281"
    assert class_names(dynamic.load(build(f"{file}:build", 1000), dynamic_layers=LAYERS).info)[281] == "class 281"


def test_what_wraps_a_network_is_taken_off() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for wrapped in (torch.compile(module), nn.DataParallel(module)):
        network = dynamic.load(wrapped, dynamic_layers=["0"])
        assert network.original is module
        assert network.info.name == "Sequential"


def test_its_code_and_pictures_are_part_of_its_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_network(tmp_path)
    settings = NetworkSettings(model=f"{file}:build", dynamic_layers=",".join(LAYERS))
    plain = identity_of(load_network(settings, 0).info)
    assert "short side to 256, centre 224 x 224, bilinear" in capsys.readouterr().err
    small = NetworkSettings(model=f"{file}:build", dynamic_layers=",".join(LAYERS), resolution=32, std=(0.5, 0.5, 0.5))
    network = load_network(small, 0)
    assert (network.info.preprocessing.resize, network.info.preprocessing.crop) == (32, 32)
    assert capsys.readouterr().err == (
        "pictures: short side to 32, centre 32 x 32, bilinear, mean 0.485 0.456 0.406, std 0.5 0.5 0.5; "
        "assumed: mean (ImageNet's: say others with --resolution, --mean, --std)\n"
    )
    assert plain.keys() == {"network_file"}
    assert identity_of(network.info).keys() == {"network_file", "preprocessing"}
    file.write_text(file.read_text() + "# changed\n")
    assert identity_of(load_network(settings, 0).info) != plain


def test_it_is_trained_from_scratch_on_scenes_of_ten_classes_alone(tmp_path: Path) -> None:
    from dynamic.training.scratch import TrainSettings, _built, _identity

    file = write_network(tmp_path)
    assert _built(f"{file}:build").training
    settings = TrainSettings(model=f"{file}:build", device="cpu")
    before = _identity(settings)
    assert before["model"] == "my_net.py:build"
    file.write_text(NETWORK.replace("(classes=10)", "()").replace("classes", "3"))
    assert _identity(settings) != before
    with pytest.raises(UserError, match=r"my_net.py:build makes \(2, 3\) of 2 images, not 2 x 10 logits"):
        _built(f"{file}:build")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("nn.Conv2d(3,", "nn.Conv2d(4,", "my_net.py:build takes 4 channels; 1 or 3 are supported$"),
        ("nn.Conv2d(3, 8", "nn.LazyConv2d(8", "Sequential has lazy modules: run it once on a picture before returning it$"),
        (
            "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)",
            "nn.Conv2d(16, classes, 1)",
            "Sequential makes 10 x 56 x 56 of an image, not a row of logits: only classifiers are supported$",
        ),
    ],
)
def test_networks_that_are_no_classifiers_of_pictures(tmp_path: Path, before: str, after: str, told: str) -> None:
    file = write_network(tmp_path, NETWORK.replace(before, after))
    with pytest.raises(UserError, match=told):
        dynamic.load(f"{file}:build", dynamic_layers=LAYERS)


def test_a_preprocessing_with_other_channels(tmp_path: Path) -> None:
    file = write_network(tmp_path, NETWORK.replace("nn.Conv2d(3,", "nn.Conv2d(1,"))
    assert dynamic.load(f"{file}:build", dynamic_layers=LAYERS).info.preprocessing.channels == 1
    told = r"takes 1 channels, its preprocessing makes 3: mean and std must have one number each$"
    with pytest.raises(UserError, match=told):
        dynamic.load(f"{file}:build", dynamic_layers=LAYERS, preprocessing=imagenet_preprocessing())


def test_a_file_of_a_package_is_named_as_a_module(tmp_path: Path) -> None:
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "__init__.py").touch()
    file = write_network(folder, "from .blocks import x\n", "rel.py")
    told = rf"rel.py, line 1: imports relatively, .*: name it as a module, nets.rel:build, in {tmp_path}$"
    with pytest.raises(UserError, match=told):
        dynamic.load(f"{file}:build", dynamic_layers=LAYERS)
