from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dynamic
from dynamic import UserError
from dynamic.models import build
from dynamic.scenes import FashionScenes
from dynamic.training import loop
from oracle.training.fine_tuning import drawn_from, fine_tune
from oracle.training.methods import distillation_step, random_option_step
from oracle.training.settings import RofSettings
from tests.image_folders import fill
from tests.oracle.conftest import environment, run_command


def settings(folder: Path, out: str, **changes: object) -> RofSettings:
    options = {
        "data_dir": folder,
        "out": folder / out,
        "space": "efficiency",
        "cost_limit": 0.5,
        "epochs": 3,
        "drop_after": 1,
        "batch": 16,
        "images": 48,
        "checked_images": 4,
        "dtype": "float32",
    }
    return RofSettings(**(options | changes))  # type: ignore[arg-type]


def log(folder: Path) -> list[dict[str, float]]:
    """What was measured in each epoch, without its time."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("mobilenet_v2-slim", {"method": "rof"}),
        pytest.param("resnet50-slim", {"method": "distillation"}, marks=pytest.mark.nightly),
        ("resnet50-slim", {"method": "distillation", "schedule": "stable", "average": 0.9, "teacher": "average"}),
    ],
    ids=["rof", "distillation", "average"],
)
def test_resumed_it_reproduces_the_uninterrupted_losses(
    training_folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, changes: dict[str, object]
) -> None:
    """MobileNetV2 has dropout, so its losses depend on torch's generator too."""
    if "average" in changes:
        (training_folder / "rungs.json").write_text('["s3-2-2-3_d1-1-1-1_k3-3-3-3", "s2-2-2-3_d1-1-1-1_k3-3-3-3"]')
        changes |= {"space": str(training_folder / "rungs.json"), "epoch_images": 16, "warm_up_steps": 2}
    fine_tune(settings(training_folder, "whole", model=model, **changes))
    save = loop.save_checkpoint

    def interrupt(*arguments: object, **parts: object) -> None:
        save(*arguments, **parts)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "save_checkpoint", interrupt)
            with pytest.raises(KeyboardInterrupt):
                fine_tune(settings(training_folder, "cut", model=model, **changes))
    # As if it had been killed between an epoch's log line and its checkpoint.
    with (training_folder / "cut" / "log.jsonl").open("a") as file:
        file.write('{"epoch": 3, "loss": 0}\n')
    last = fine_tune(settings(training_folder, "cut", model=model, **changes))
    assert last == fine_tune(settings(training_folder, "cut", model=model, **changes))  # finished: nothing to do
    assert log(training_folder / "cut") == log(training_folder / "whole")
    assert len(log(training_folder / "cut")) == 3
    first, second = (load_file(training_folder / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(UserError, match=r"belongs to another training \(learning_rate 0.001 there, 0.5 here\)"):
        fine_tune(settings(training_folder, "cut", model=model, **changes, learning_rate=0.5))
    said = log(training_folder / "whole")[-1]
    assert ("label_recalibrated" in said) == ("average" in changes)  # each configuration's, where there are few
    # What it leaves is what --weights takes, and it is not what it started from.
    tuned = dynamic.load(model, weights=training_folder / "cut" / "weights.safetensors")
    assert tuned.digest != dynamic.load(model).digest


def test_configurations_come_from_the_space_within_the_limit() -> None:
    network = dynamic.load("resnet50-slim")
    drawn = drawn_from(RofSettings(space="efficiency", cost_limit=0.5), network)
    costs = [network.macs(c, 96) for c in drawn]
    assert costs == sorted(costs)
    assert costs[-1] <= 0.5 * network.macs(network.default, 96) < network.macs(network.default, 96)
    assert set(drawn) < set(dynamic.space("efficiency", network))
    with pytest.raises(UserError, match=r"no configuration of stride costs at most 0.001 times the default"):
        drawn_from(RofSettings(space="stride", cost_limit=0.001), network)


def test_students_learn_but_leave_the_statistics_to_the_default() -> None:
    scenes = FashionScenes("label", count=16)
    images, labels = scenes.render(range(16)), torch.from_numpy(scenes.labels)
    network = dynamic.load("resnet50-slim")
    alone = copy.deepcopy(network)
    students = list(dynamic.space("efficiency", network))[-2:]
    distillation_step(network.train(), network, images, labels, students)
    random_option_step(alone.train(), images, labels, alone.default)
    for (name, one), (_, other) in zip(network.original.named_buffers(), alone.original.named_buffers(), strict=True):
        assert torch.equal(one, other), name
    gradients = [torch.cat([p.grad.flatten() for p in n.original.parameters()]) for n in (network, alone)]
    assert not torch.allclose(*gradients)
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_norms_of_vectors_are_left_to_the_default_too() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    network = dynamic.DynamicNetwork(module, ["0"], resolution=16)
    images, labels = torch.randn(8, 1, 16, 16), torch.arange(8) % 2
    alone = copy.deepcopy(network)
    distillation_step(network.train(), network, images, labels, [network.default.changed({"stride": (3,)})])
    random_option_step(alone.train(), images, labels, alone.default)
    for (name, one), (_, other) in zip(network.original.named_buffers(), alone.original.named_buffers(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("method", ["rof", "distillation"])
def test_backward_passes_run_outside_autocast(method: str) -> None:
    scenes = FashionScenes("label", count=4)
    images, labels = scenes.render(range(4)), torch.from_numpy(scenes.labels)
    network = dynamic.load("resnet50-slim").train()
    inside, forward = [], []
    weight = network.original.conv1.weight
    weight.register_hook(lambda gradient: inside.append(torch.is_autocast_enabled("cpu")))
    network.original.conv1.register_forward_hook(lambda module, inputs, made: forward.append(made.dtype))
    if method == "rof":
        random_option_step(network, images, labels, network.default, "bfloat16")
    else:
        distillation_step(network, network, images, labels, [network.default], "bfloat16")
    assert set(forward) == {torch.bfloat16}
    assert len(forward) == len(inside) == (1 if method == "rof" else 2)
    assert not any(inside)


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_train_one_network(training_folder: Path) -> None:
    """The real launcher, two processes on the CPU, then one more epoch resumed."""
    for epochs in (1, 2):
        options = ["--space", "stride", "--data-dir", training_folder, "--out", training_folder / "both", "--epochs", epochs]
        options += ["--batch", 16, "--images", 32, "--checked-images", 4, "--dtype", "float32", "--device", "cpu", "--json"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611"]
        process = subprocess.run(
            [*launcher, "-m", "oracle.rof", *map(str, options)],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=300,
        )
        if epochs == 1:
            assert process.returncode == 0, process.stderr
            result = json.loads(process.stdout.splitlines()[-1])
            assert np.isfinite(result["loss"])
    # Another number of epochs is another training, and one process is not two.
    assert "epochs 1 there, 2 here" in process.stderr
    assert len(log(training_folder / "both")) == 1
    alone = run_command(*options[:-1], "--epochs", 1, module="oracle.rof")
    assert alone.returncode == 2
    assert "processes 2 there, 1 here" in alone.stderr
    start, end = dynamic.load("resnet50-slim"), dynamic.load("resnet50-slim", training_folder / "both/weights.safetensors")
    assert start.digest != end.digest


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """With batch norms in eval mode the halves do not mix, so averaging over processes must give the whole's gradient."""
    program = tmp_path / "both.py"
    program.write_text(
        """
import os, sys, torch, torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel
import dynamic
from oracle.training.methods import distillation_step
distributed.init_process_group("gloo")
rank = distributed.get_rank()
network = dynamic.load("resnet50-slim")
parallel = DistributedDataParallel(network)
parallel.eval()
images, labels = torch.load(sys.argv[1])
students = list(dynamic.space("efficiency", network))[-2:]
distillation_step(parallel, network, images[rank::2], labels[rank::2], students)
torch.save([p.grad for p in network.original.parameters()], f"{sys.argv[1]}.{rank}")
"""
    )
    scenes = FashionScenes("label", count=8)
    images, labels = scenes.render(range(8)), torch.from_numpy(scenes.labels)
    torch.save((images, labels), tmp_path / "batch")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    root = str(Path(__file__).parents[3])
    subprocess.run(
        [*launcher, program, tmp_path / "batch"], check=True, env=environment() | {"PYTHONPATH": root}, timeout=300
    )
    network = dynamic.load("resnet50-slim")
    students = list(dynamic.space("efficiency", network))[-2:]
    distillation_step(network, network, images, labels, students)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"batch.{rank}")
        for got, parameter in zip(found, network.original.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_folders_are_fine_tuned_on_their_train_half(tmp_path: Path) -> None:
    for part, height in (("train", 80), ("val", 84)):
        fill(tmp_path / "data" / part, {"n01440764": 3, "n02102040": 3}, height=height)
    torch.manual_seed(0)
    save_file(build("mobilenet_v2").state_dict(), tmp_path / "start.safetensors")
    options = {
        "model": "mobilenet_v2",
        "weights": str(tmp_path / "start.safetensors"),
        "dataset": "imagenet",
        "space": "stride",
    }
    options |= {"data_dir": tmp_path / "data", "batch": 3, "epochs": 1, "checked_images": 2, "out": tmp_path / "out"}
    result = fine_tune(RofSettings(**options, cost_limit=0.7))  # type: ignore[arg-type]
    assert np.isfinite(result["loss"])
    first = log(tmp_path / "out")
    fine_tune(RofSettings(**(options | {"out": tmp_path / "again"}), cost_limit=0.7))  # type: ignore[arg-type]
    assert log(tmp_path / "again") == first  # crops are drawn in worker processes, and still the same
    with pytest.raises(UserError, match=r"holds no class folders: expected .*train/n01440764"):
        fine_tune(RofSettings(**(options | {"data_dir": tmp_path / "data" / "val"})))  # type: ignore[arg-type]


@pytest.mark.slow
def test_wrong_settings_are_named(training_folder: Path) -> None:
    with pytest.raises(UserError, match="--batch must be at least 2"):
        RofSettings(batch=1)
    with pytest.raises(UserError, match="--learning-rate must be positive, not 0"):
        RofSettings(learning_rate=0)
    with pytest.raises(UserError, match="must be at most the 48 training images"):
        fine_tune(settings(training_folder, "out", batch=64))
    with pytest.raises(UserError, match="--epoch-images 4 is less than a batch of 8: nothing would be learned"):
        fine_tune(settings(training_folder, "out", batch=8, epoch_images=4))
    assert "Random option fine-tuning" in run_command("--help", module="oracle.rof").stdout


@pytest.mark.slow
@pytest.mark.parametrize("space", ["stride", "dilation", "size"])
def test_the_embedded_fine_tuned_weights_are_good_at_their_space(space: str) -> None:
    scenes = FashionScenes("test", count=60)
    images, labels = scenes.render(range(60)), torch.from_numpy(scenes.labels)
    accuracy = []
    for weights in ("default", f"rof-{space}"):
        network = dynamic.load("resnet50-slim", weights=weights)
        few = list(dynamic.space(space, network))[::20]
        right = torch.zeros(len(few), 60)
        with torch.inference_mode():
            for columns, logits in network.for_inference().comprehensive(images, few):
                right[columns] = (logits.argmax(1) == labels).float()
        accuracy.append(right.mean().item())
    assert accuracy[1] > accuracy[0] + 0.1
