"""Runs with a network of one's own: kept with its code, opened without it, told apart by code and pictures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import dynamic
from dynamic import UserError
from dynamic.models import build
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.training import TrainSettings, train
from selector.policies import load_policies
from tests.image_folders import fill
from tests.own_networks import LAYERS, NETWORK, write_network
from tests.run_folders import write_space

NEIGHBOUR = NETWORK.replace("from torch import nn", "from layers import nn")


def settings_in(base: Path, code: str = NETWORK) -> RunSettings:
    """A run on 24 images of three classes, with a trained file of weights."""
    (base / "nets").mkdir()
    file = write_network(base / "nets", code)
    (base / "nets" / "layers.py").write_text("from torch import nn\n")
    torch.manual_seed(1)
    torch.save({"model": build(f"{file}:build", 3).state_dict(), "epoch": 7}, base / "nets" / "best.pth")
    fill(base / "photos", {"a": 8, "b": 8, "c": 8}, ".png")
    (base / "space.json").write_text(json.dumps({"stride": [[1, 2], [2]]}))
    return RunSettings(
        model=f"{file}:build",
        weights=str(base / "nets" / "best.pth"),
        dynamic_layers=",".join(LAYERS),
        resolution=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        dataset="imagefolder",
        data_dir=base / "photos",
        space=str(base / "space.json"),
        out=base / "run",
    )


def test_a_run_keeps_its_network_and_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path)
    outcomes = run(settings)
    code = Path(settings.model.rpartition(":")[0]).read_bytes()
    network = dynamic.load(settings.model, settings.weights, LAYERS)
    assert run(settings) == outcomes  # again: nothing is evaluated, nothing refused
    shutil.rmtree(tmp_path / "nets")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    monkeypatch.chdir("/")
    opened = Run.open(tmp_path / "moved")
    opened.verify_all()
    assert opened.record.network.model == opened.settings.model == "my_net.py:build"
    assert (opened.settings.resolution, opened.settings.mean) == (32, (0.5, 0.5, 0.5))
    assert opened.network.digest == network.digest
    assert opened.network_file.read_bytes() == code
    assert opened.record.class_names == ("a", "b", "c")
    image = opened.record.preprocessing(Image.new("RGB", (64, 40), "white"))
    assert torch.equal(image, torch.full((3, 32, 32), 2.0))
    assert torch.equal(
        opened.fast_network()(image[None], network.default).argmax(), network(image[None], network.default).argmax()
    )
    assert train(TrainSettings(run=tmp_path / "moved", policies="cascade", device="cpu"))
    assert [policy.name for policy in load_policies(opened)][-1] == "cascade"
    assert not list((tmp_path / "moved").glob("__pycache__"))
    opened.network_file.write_bytes(code + b"\n")
    with pytest.raises(UserError, match=r"network.py is damaged"):
        _ = Run.open(tmp_path / "moved").network


def test_other_pictures_or_other_code_are_another_run(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    run(settings)
    for other, told in (
        (replace(settings, mean=(0.4, 0.5, 0.5)), r"holds another run \(preprocessing is .*0.5.* there, .*0.4.* here\)"),
        (replace(settings, resolution=48), r"holds another run \(.*preprocessing is .*; resolution is 32 there, 48 here"),
        (replace(settings, resolution=None, mean=None, std=None), r"preprocessing is .* there, absent here"),
    ):
        with pytest.raises(UserError, match=told):
            run(other)
    file = Path(settings.model.rpartition(":")[0])
    file.write_text(NETWORK.replace("nn.ReLU()", "nn.GELU()"))
    with pytest.raises(UserError, match=r"holds another run \(network_file is \w+ there, \w+ here\)"):
        run(settings)


@pytest.mark.slow
def test_pictures_of_a_named_network_are_kept_too(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    torch.save(build("resnet50-slim", 3).state_dict(), tmp_path / "slim.pth")
    named = replace(
        settings,
        model="resnet50-slim",
        weights=str(tmp_path / "slim.pth"),
        dynamic_layers="",
        space=str(write_space(tmp_path)),
    )
    run(named)
    opened = Run.open(named.out)
    assert opened.network.info.preprocessing == opened.record.preprocessing
    assert (opened.record.preprocessing.crop, opened.record.preprocessing.mean) == (32, (0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=r"preprocessing is .* there, absent here"):
        run(replace(named, resolution=None, mean=None, std=None))


def test_a_neighbour_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_in(tmp_path, NEIGHBOUR)
    run(settings)
    assert "imported layers.py beside it, which the run does not keep: copy" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"run/network.py, line 1: needs the module 'layers', .* must lie beside it"):
        _ = Run.open(settings.out).network
    shutil.copy(tmp_path / "nets" / "layers.py", settings.out)
    assert Run.open(settings.out).network.info.classes == 3
    (settings.out / "layers.py").write_text("from torch import nn  # another\n")
    with pytest.raises(UserError, match=r"layers.py, which my_net.py:build needs, is not what .*run was made with"):
        _ = Run.open(settings.out).network
    (tmp_path / "nets" / "layers.py").write_text("from torch import nn  # another\n")
    with pytest.raises(
        UserError, match=r"holds another run \(network_neighbours is layers.py \w+ there, layers.py \w+ here"
    ):
        run(settings)


def test_a_function_that_reads_a_file_beside_it_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    reads = (
        NETWORK
        + """

def trained():
    import pathlib
    import torch
    net = build(3)
    net.load_state_dict(torch.load(pathlib.Path(__file__).parent / "best.pth")["model"])
    return net
"""
    )
    settings = settings_in(tmp_path, reads)
    settings = replace(settings, model=settings.model.replace(":build", ":trained"), weights="default")
    told = r"copy of .*my_net.py, which alone makes no network \(my_net.py, line 16: FileNotFoundError: .*best.pth'\): let "
    with pytest.raises(UserError, match=told + "trained return the network without its weights, and pass --weights FILE"):
        run(settings)
    assert not list(settings.out.iterdir())
    run(replace(settings, model=settings.model.replace(":trained", ":build"), weights=str(tmp_path / "nets" / "best.pth")))
    assert Run.open(settings.out).network.info.classes == 3


def test_a_module_of_python_is_told_what_to_do(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    module = build(settings.model, 3)
    network = dynamic.load(module, dynamic_layers=LAYERS, preprocessing=settings.pictures)
    run(replace(settings, model="resnet50-slim", weights="default"), network)
    opened = Run.open(settings.out)
    assert opened.record.network.model == opened.settings.model == "Sequential"
    told = r"Sequential of .*run was given in Python, and no command can make it: put a function .*--model FILE.py:FUNCTION"
    with pytest.raises(UserError, match=told):
        train(TrainSettings(run=settings.out, policies="cascade", device="cpu"))
    assert Run.open(settings.out).adopt(network).network.digest == network.digest
    # What it advises: the same network from a file, with the weights that the run kept.
    again = dynamic.load(settings.model, opened.weights_file, LAYERS)
    assert again.digest == network.digest


@pytest.mark.slow
def test_registered_weights_that_were_changed_in_python_are_kept(tmp_path: Path) -> None:
    network = dynamic.load("resnet50-slim")
    with torch.no_grad():
        network.original.fc.bias += 1  # type: ignore[union-attr, operator]
    run(RunSettings(images=2, space=str(write_space(tmp_path)), out=tmp_path / "run"), network)
    opened = Run.open(tmp_path / "run")
    assert opened.network.digest == network.digest
    assert opened.record.network.weights == "embedded (default), changed in Python"


@pytest.mark.slow
def test_the_commands_take_it(tmp_path: Path) -> None:
    """Fine-tuned by one command, run by another, learned from by a third, in processes of their own."""
    settings = settings_in(tmp_path)
    shutil.copytree(tmp_path / "photos", tmp_path / "data" / "val")
    fill(tmp_path / "data" / "train", {folder.name: 12 for folder in (tmp_path / "photos").iterdir()}, name="other")
    common = [
        *("--model", settings.model, "--dynamic-layers", settings.dynamic_layers, "--resolution", "32", "--mean", "0.5"),
        *("0.5", "0.5", "--dataset", "imagefolder", "--data-dir", tmp_path / "data", "--space", settings.space),
    ]
    few = ("--epochs", "1", "--batch", "8", "--dtype", "float32", "--checked-images", "4", "--device", "cpu")
    tuned = tmp_path / "tuned"
    for command in (
        ["oracle.rof", *common, "--weights", settings.weights, *few, "--out", tuned],
        ["oracle.run", *common, "--weights", tuned / "weights.safetensors", "--out", settings.out],
        ["selector.train", settings.out, "--policies", "cascade", "--device", "cpu"],
    ):
        done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert "pictures: short side to 32, centre 32 x 32" not in done.stderr
    broken = write_network(tmp_path, "import no_such\n", "broken.py")
    done = subprocess.run(
        [sys.executable, "-m", "oracle.run", "--model", f"{broken}:build"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_package_that_was_changed_since_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path)
    (tmp_path / "nets").rename(tmp_path / "changing_nets")
    monkeypatch.syspath_prepend(tmp_path)
    weights = str(tmp_path / "changing_nets" / "best.pth")
    run(replace(settings, model="changing_nets.my_net:build", weights=weights))
    assert Run.open(settings.out).network.info.classes == 3
    (tmp_path / "changing_nets" / "my_net.py").write_text(NETWORK.replace("nn.ReLU()", "nn.GELU()"))
    message = r"^changing_nets.my_net, which changing_nets.my_net:build needs, is not what .*run was made with: restore"
    with pytest.raises(UserError, match=message):
        _ = Run.open(settings.out).network
