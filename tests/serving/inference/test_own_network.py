"""A network of one's own served without a run, and names that are folders too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynamic.errors import UserError
from dynamic.models import build
from serving.inference.engine import answer
from serving.inference.finding import folder_of
from serving.inference.opening import open_deployment
from serving.inference.plans import Plan
from serving.settings import ServingSettings, read_settings
from serving.startup import check_before_start
from tests.own_networks import LAYERS, write_network


def test_it_is_served_as_its_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_network(tmp_path)
    torch.manual_seed(3)
    original = build(f"{file}:build", 4).eval()
    torch.save({"model": original.state_dict()}, tmp_path / "best.pth")
    for name, value in (
        ("NETWORK", f"{file}:build"),
        ("WEIGHTS", tmp_path / "best.pth"),
        ("DYNAMIC_LAYERS", ",".join(LAYERS)),
        ("RESOLUTION", "32"),
        ("MEAN", "0.5, 0.5,0.5"),
        ("STD", "0.25 0.25 0.25"),
        ("STATIC", "true"),
        ("DEVICE", "cpu"),
    ):
        monkeypatch.setenv(f"SERVING_{name}", str(value))
    settings = read_settings()
    check_before_start(settings)
    deployment = open_deployment(settings)
    assert (deployment.name, deployment.resolution) == ("my_net.py:build", 32)
    assert deployment.classes == ("class 0", "class 1", "class 2", "class 3")
    picture = Image.new("RGB", (64, 40), (255, 0, 127))
    image = deployment.transform(picture)[None]
    assert image[0, :, 0, 0].tolist() == pytest.approx([2, -2, (127 / 255 - 0.5) * 4], abs=1e-5)
    (found,) = answer(deployment, image, [Plan(policy="default")])
    assert found.probabilities == pytest.approx(original(torch.from_numpy(image)).softmax(1)[0].tolist(), abs=1e-4)


def test_what_is_wrong_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_network(tmp_path)
    own = f"{file}:build"
    for options, told in (
        ({"network": f"{tmp_path}/no.py:build"}, r"SERVING_NETWORK=.*no.py:build: no file"),
        ({"network": str(file)}, r"my_net.py is a file: say which function in it"),
        ({"network": own, "weights": "best.pth"}, r"SERVING_WEIGHTS=best.pth is neither a file nor of default, none"),
        ({"network": own, "mean": (0.5, 0.5)}, r"SERVING_MEAN must be one number, or one for each channel, not 2"),
        (
            {"network": own, "preprocessing": "x.json", "resolution": 9},
            r"SERVING_PREPROCESSING says all: leave out SERVING_R",
        ),
        (
            {"network": "matched", "resolution": 32},
            r"SERVING_RESOLUTION: for a network given by name; .*matched is a run",
        ),
    ):
        with pytest.raises(UserError, match=told):
            check_before_start(ServingSettings(**options))  # type: ignore[arg-type]
    monkeypatch.setenv("SERVING_MEAN", "dark")
    with pytest.raises(UserError, match=r"SERVING_MEAN='dark': input should be a valid number"):
        read_settings()


def test_what_can_never_be_loaded_ends_the_start(tmp_path: Path) -> None:
    """Instead of workers that try again for ever."""
    own = f"{write_network(tmp_path)}:build"
    dense = (
        "import torch\n\ndef build(classes=2):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))\n"
    )
    (tmp_path / "dense.py").write_text(dense)
    torch.save({"other": torch.ones(3)}, tmp_path / "other.pth")
    for options, told in (
        ({"network": f"{tmp_path}/dense.py:build", "resolution": 2}, r"Sequential has no convolution and no pool"),
        ({"network": f"{tmp_path}/dense.py:make"}, r"dense.py has no 'make'"),
        ({"network": own, "dynamic_layers": "nowhere"}, r"nowhere"),
        ({"network": own, "weights": str(tmp_path / "other.pth")}, r"other.pth"),
    ):
        with pytest.raises(UserError, match=told) as error:
            check_before_start(ServingSettings(**options))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


def test_a_network_comes_before_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet50-slim").mkdir()
    assert folder_of(ServingSettings(network="resnet50-slim")) is None
    assert folder_of(ServingSettings(network="./resnet50-slim")) == Path("resnet50-slim")
    check_before_start(ServingSettings(network="resnet50-slim"))
    assert "is the network; the folder is ./resnet50-slim" in capsys.readouterr().err


LOOK = """
import json, sys
from dynamic.errors import UserError
from serving.inference.finding import folder_of
from serving.settings import ServingSettings
from serving.startup import check_before_start
said = []
for given in json.loads(sys.argv[1]):
    settings = ServingSettings(**given)
    try:
        check_before_start(settings)
        said.append(str(folder_of(settings)))
    except UserError as error:
        said.append(str(error))
print(json.dumps([said, "torch" in sys.modules]))
"""


@pytest.mark.slow
def test_the_process_that_starts_the_workers_holds_no_pytorch(tmp_path: Path) -> None:
    """It looks at networks by name in a process that ends; the answers are those of the other tests, in this process."""
    file = write_network(tmp_path)
    (tmp_path / "my_net.py").write_text("print('of the network itself')\n" + file.read_text())
    (tmp_path / "deadly.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    (tmp_path / "mine").mkdir()
    given = [
        {"network": f"{file}:build", "weights": "none", "dynamic_layers": ",".join(LAYERS), "mean": [0.5] * 3},
        {"network": f"{file}:build", "dynamic_layers": "nowhere"},
        {"network": f"{tmp_path}/deadly.py:build"},
        {"network": "mine"},
    ]
    command = [sys.executable, "-c", LOOK, json.dumps(given)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (fine, nowhere, deadly, mine), loaded = json.loads(done.stdout)
    assert fine == "None"
    assert "nowhere" in nowhere
    assert deadly.endswith("deadly.py:build could not be looked at: that process ended with -9, killed: is there memory?")
    assert "SERVING_NETWORK=mine holds no run with policies" in mine, "a folder, not a network of that name"
    assert not loaded
