"""Checkpoint files as other programs write them: nothing in them is run, and what does not fit is told in one line."""

from __future__ import annotations

import argparse
import collections
import enum
import os
import pathlib
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

import dynamic
from dynamic import UserError
from dynamic.models import build, read_checkpoint
from dynamic.models.fitting import fitted

NET = "mobilenet_v2-slim"


def tensors(seed: int = 0, classes: int = 7) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build(NET, classes).state_dict()


def loaded(path: Path, content: Any, **options: Any) -> dict[str, torch.Tensor]:
    torch.save(content, path, **options)
    return fitted(NET, read_checkpoint(path), str(path), None).original.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class Options(dict[str, Any]):
    """A dictionary of somebody's own, as configuration packages have them."""


class Kind(enum.Enum):
    ADAM = 1


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.made_by = function, arguments

    def __reduce__(self) -> Any:
        return self.made_by


@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_training_script_writes_beside_the_tensors(tmp_path: Path, zipped: bool) -> None:
    stored, options = tensors(), Options(lr=0.1)
    options.path = tmp_path  # type: ignore[attr-defined]
    content = {
        "model": stored,
        "optimizer": torch.optim.Adam(build(NET).parameters()).state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, output=pathlib.Path("runs"), kind=Kind.ADAM),
        "best": np.float64(0.7),
        "curve": np.arange(3),
        "options": options,
        "history": collections.defaultdict(list, a=[1]),
        "device": torch.device("cpu"),
    }
    assert same(loaded(tmp_path / "mine.pth", content, _use_new_zipfile_serialization=zipped), stored)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path: Path, zipped: bool) -> None:
    stored, mark = tensors(), tmp_path / "mark"
    for function, arguments, told in (
        (exec, (f"import pathlib; pathlib.Path({str(mark)!r}).touch()",), ""),
        (eval, (f"__import__('pathlib').Path({str(mark)!r}).touch()",), ""),
        (torch.save, ([1], str(mark)), ""),
        (os.system, (f"touch {mark}",), r"posix\.system"),
        (pathlib.Path.touch, (mark,), r"builtins\.getattr, pathlib\.Path, .*"),
    ):
        content = {"model": stored, "args": Calls(function, *arguments)}
        torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
        if told:
            with pytest.raises(
                UserError, match=rf"cannot be read without running code that it names \({told}\), and was not"
            ):
                read_checkpoint(tmp_path / "bad.pth")
        else:
            assert same(read_checkpoint(tmp_path / "bad.pth"), stored)
        assert not mark.exists(), function
        torch.load(tmp_path / "bad.pth", weights_only=False)  # as anybody else would
        assert mark.exists(), function
        mark.unlink()


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "net.", "network.", "encoder.", "module._orig_mod.model."]
)
def test_what_programs_put_before_the_names_is_stripped(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tensors()
    assert same(loaded(tmp_path / "mine.pth", {prefix + key: value for key, value in stored.items()}), stored)
    assert f"stripped {prefix!r} from the names" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model_state_dict", "model", "net", "network", "ema", "model_ema", "state_dict_ema", "mine"]
)
def test_wherever_a_program_keeps_them(tmp_path: Path, wrapper: str) -> None:
    assert same(loaded(tmp_path / "mine.pth", {wrapper: tensors(), "epoch": 1}), tensors())
    assert same(loaded(tmp_path / "mine.pth", {"checkpoint": {wrapper: tensors()}, "epoch": 1}), tensors())


def test_of_several_sets_one_is_taken_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tensors()
    assert same(loaded(tmp_path / "mine.pth", {"model_ema": tensors(1), "model": stored}), stored)
    assert "took the tensors of model, not those of model_ema" in capsys.readouterr().err
    both = {f"model.{k}": v for k, v in stored.items()} | {f"ema_model.module.{k}": v for k, v in tensors(1).items()}
    assert same(loaded(tmp_path / "mine.pth", both), stored)
    assert "left out ema_model.module." in capsys.readouterr().err
    with pytest.raises(UserError, match=r"holds several sets of tensors \(first, second\): store the network's alone"):
        loaded(tmp_path / "mine.pth", {"first": stored, "second": tensors(1)})
    two = {f"query.{k}": v for k, v in stored.items()} | {f"key.{k}": v for k, v in tensors(1).items()}
    with pytest.raises(UserError, match=r"holds several networks \(query\., key\.\): store the one you want alone"):
        loaded(tmp_path / "mine.pth", two)


def test_counters_and_what_training_keeps_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tensors()
    fewer = {key: value for key, value in stored.items() if not key.endswith("num_batches_tracked")}
    assert same(loaded(tmp_path / "mine.pth", fewer), build(NET, 7).state_dict() | fewer)
    more = {f"model.{k}": v for k, v in stored.items()} | {
        "criterion.weight": torch.ones(7),
        "model.total_ops": torch.ones(1),
        "n_averaged": torch.tensor(3),
    }
    assert same(loaded(tmp_path / "mine.pth", more), stored)
    assert "left out criterion.weight" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"is not a checkpoint of mobilenet_v2-slim: it has unknown mean$"):
        loaded(tmp_path / "mine.pth", {f"model.{k}": v for k, v in stored.items()} | {"mean": torch.ones(3)})


def test_a_head_that_is_called_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    stored = build("resnet50-slim", 7).state_dict()
    trunk = {key: value for key, value in stored.items() if not key.startswith("fc.")}
    for prefix, head in (("", "fc.1"), ("backbone.", "head"), ("model.", "model.fc.1"), ("", "classifier")):
        renamed = {f"{head}.weight": stored["fc.weight"], f"{head}.bias": stored["fc.bias"]}
        content = {prefix + key: value for key, value in trunk.items()} | renamed
        assert same(fitted("resnet50-slim", content, "mine.pth", None).original.state_dict(), stored)
        assert f"took {head}.bias, {head}.weight as fc.bias, fc.weight" in capsys.readouterr().err
    two = {"fc.0.weight": torch.ones(64, 512), "fc.0.bias": torch.ones(64), "fc.3.weight": torch.ones(7, 64)}
    with pytest.raises(UserError, match=r"lacks fc.bias, fc.weight; it has unknown fc.0.bias.* its last layer is another"):
        fitted("resnet50-slim", trunk | two | {"fc.3.bias": torch.ones(7)}, "mine.pth", None)
    with pytest.raises(UserError, match=r"it lacks fc.bias, fc.weight; its last layer is another: name a function"):
        fitted("resnet50-slim", trunk, "mine.pth", None)


def test_whole_modules_and_other_files_are_called_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    module = nn.Sequential(nn.Linear(2, 2))
    whole = r"is a whole module, a torch.nn.modules.container.Sequential, which can be opened only by running its code: "
    for content, told in (
        (
            module,
            whole + r"where that code is, run once torch.save\(torch.load\('mine.pth', .*\).state_dict",
        ),
        ({"model": module, "epoch": 1}, r"under model " + whole + r".*weights_only=False\)\['model'\].state_dict"),
        (argparse.Namespace(a=1), r"holds a argparse.Namespace, not tensors by name"),
        ({"epoch": 1}, "holds no tensors by name"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=told):
            read_checkpoint(path)
    torch.save(module, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"holds a whole module, in torch's format of before 1.6"):
        read_checkpoint(path)
    torch.save(tensors(), path, pickle_protocol=4)
    with pytest.raises(UserError, match=r"pickled in another protocol than torch.save's"):
        read_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, torch.ones(1, 2)).save(path)
    with pytest.raises(UserError, match=r"is a TorchScript archive.* torch.save\(torch.jit.load\('mine.pth'\).state_dict"):
        read_checkpoint(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="is a pointer of Git LFS"):
        read_checkpoint(path)
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(UserError, match="is a web page"):
        read_checkpoint(path)
    save_file(tensors(), path)
    assert same(read_checkpoint(path), tensors())


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    torch.save(build("resnet18", 5).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"is not a checkpoint of mobilenet_v2-slim: .*; it seems to be one of resnet18$"):
        dynamic.load(NET, weights=tmp_path / "mine.pth")


def test_files_that_are_no_checkpoints_are_called_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save(tensors(), path)
    zipped = path.read_bytes()
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    assert same(read_checkpoint(path), tensors())
    for name, content, told in (
        ("mine.pth", pickle.dumps({"a": np.ones(3)}), "was written by pickle, not by torch.save, and was not opened"),
        ("mine.pth", pickle.dumps(tensors(), protocol=2), "was written by pickle, not by torch.save, and was not opened"),
        ("mine.pth", b"epoch 1\nloss 0.3\n" * 20, "is a text file, not a checkpoint"),
        ("mine.pth", b"", "is empty"),
        ("mine.pth", zipped[:5000], "is truncated: a zip archive without its end"),
        ("mine.pth", legacy[:5000], "is truncated or not a checkpoint"),
        ("mine.pth", legacy[:60], "is truncated or not a checkpoint"),
        ("mine.pth", bytes(range(128, 256)) * 3, "is truncated or not a checkpoint"),
        ("mine.safetensors", zipped, "is no safetensors file, .*: rename it to mine.pth"),
        ("mine.safetensors", legacy, "is no safetensors file, .*: rename it to mine.pth"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=told) as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)


def test_tensors_deep_in_a_file(tmp_path: Path) -> None:
    assert same(loaded(tmp_path / "mine.pth", {"a": {"b": {"c": {"d": {"e": tensors()}}}}, "epoch": 1}), tensors())


def test_a_safetensors_file_may_begin_as_a_pickle_does(tmp_path: Path) -> None:
    kept = {"a": torch.arange(3.0)}
    files = (save(kept, metadata={"note": "x" * length}) for length in range(600))
    content = next(content for content in files if content[0] == 0x80)
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert torch.equal(read_checkpoint(tmp_path / "weights.safetensors")["a"], kept["a"])
