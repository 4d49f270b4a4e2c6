from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dynamic.compiled.compiling as compiling
from dynamic import DynamicNetwork, UserError
from dynamic.compiled.compiling import compile_network
from dynamic.compiled.folder import FEWEST, CompiledNetwork
from dynamic.compiled.needs import Needs
from dynamic.compiled.optimising import OptimisedGraphs
from dynamic.compiled.record import VERSION
from dynamic.compiled.session import CompiledSession
from dynamic.integrity import read_record, write_record
from tests.dynamic.compiled.networks import LOOKS, SIDE, Residual, family, images
from tests.in_use import in_use


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(family("residual").compiled.folder, tmp_path / "float32"))


def test_says_what_it_is(folder: Path) -> None:
    both = family("residual")
    opened = CompiledNetwork.open(folder, digests={"weights": both.eager.digest, "statistics": "own"})
    assert opened.configurations == both.configurations
    assert (opened.default, opened.channels, opened.resolution, opened.classes) == (both.eager.default, 3, SIDE, 5)
    assert (opened.precision, opened.runtime) == ("float32", "onnxruntime")
    assert [opened.macs(c) for c in opened.configurations] == [both.eager.macs(c, SIDE) for c in both.configurations]
    again = family("recalibrated")
    assert again.compiled.digests == {"weights": again.eager.digest, "statistics": again.eager.norms.digest}


def test_tensors_are_stored_once(folder: Path) -> None:
    """Every graph holds the whole network; the file of tensors is about as large as one copy and the other kernel sizes."""
    parameters = sum(4 * parameter.numel() for parameter in family("residual").eager.original.parameters())
    assert len(list(folder.glob("*.onnx"))) > 20
    assert parameters / 2 < (folder / "weights.bin").stat().st_size < 5 * parameters


@pytest.mark.parametrize("name", ["weights.bin", "000.onnx", "compiled.json"])
@pytest.mark.parametrize("how", ["missing", "truncated", "changed"])
def test_refuses_damage(folder: Path, name: str, how: str) -> None:
    path = folder / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-5])
    else:
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
        CompiledNetwork.open(folder)
    assert "\n" not in str(error.value)


def test_refuses_what_belongs_to_others(folder: Path) -> None:
    with pytest.raises(UserError, match=r"was compiled from other weights \(.*, not 123\): compile the run again"):
        CompiledNetwork.open(folder, digests={"weights": "123"})
    with pytest.raises(UserError, match="was compiled from other statistics"):
        CompiledNetwork.open(folder, digests={"statistics": "123"})


def test_refuses_another_version(folder: Path) -> None:
    record = read_record(folder / "compiled.json")
    for change in ({"version": VERSION - 1}, {"precision": "int3"}, {"paths": 1}, {"unknown": 1}):
        write_record(folder / "compiled.json", record | change)
        with pytest.raises(UserError, match="is another version's"):
            CompiledNetwork.open(folder)


def test_refuses_runtimes_that_cannot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no runtime is called 'tensorrt': choose from onnxruntime, openvino"):
        CompiledNetwork.open(folder, "tensorrt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"OpenVINO is not installed: pip install 'learned-selector\[openvino\]'"):
        CompiledNetwork.open(folder, "openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"ONNX Runtime cannot be imported .*: pip install onnxruntime"):
        CompiledNetwork.open(folder)


@pytest.mark.parametrize(
    ("precision", "flags", "said"),
    [
        ("bfloat16", {"avx512f"}, "this CPU has no bfloat16"),
        ("bfloat16", {"avx512_bf16"}, ""),
        ("int8", {"avx2"}, ""),
    ],
)
def test_refuses_precisions_that_the_cpu_lacks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str, flags: set[str], said: str
) -> None:
    record = read_record(folder / "compiled.json")
    write_record(folder / "compiled.json", record | {"precision": precision})
    monkeypatch.setattr("dynamic.resources.cpu_flags", lambda: frozenset(flags))
    if not said:
        assert CompiledNetwork.open(folder).precision == precision
        return
    with pytest.raises(UserError, match=said):
        CompiledNetwork.open(folder)
    if precision == "bfloat16":
        with pytest.raises(UserError, match="ONNX Runtime has no bfloat16"):
            CompiledNetwork.open(folder, "onnxruntime")


def compiled_again(folder: Path, **changes: object) -> CompiledNetwork:
    both = family("residual")
    asked = {"configurations": both.configurations[:2], "resolution": SIDE, "needs": Needs(), "looks": LOOKS} | changes
    return compile_network(both.eager, folder, **asked)  # type: ignore[arg-type]


def test_is_written_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((folder / "compiled.json").read_text())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("_verify", "write_record"):
        with monkeypatch.context() as patched:
            patched.setattr(compiling, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                compiled_again(folder)
        assert json.loads((folder / "compiled.json").read_text()) == before
        assert os.listdir(folder.parent) == ["float32"]
    (folder.parent / ".float32-killed").mkdir()  # by a process that could not tidy up
    assert len(compiled_again(folder).configurations) == 2
    assert os.listdir(folder.parent) == ["float32"]


def test_two_processes_do_not_make_the_same_folder(folder: Path) -> None:
    before = json.loads((folder / "compiled.json").read_text())
    with in_use(folder.parent), pytest.raises(UserError, match=r"is in use by process \d+, which runs since .*: wait"):
        compiled_again(folder)
    assert json.loads((folder / "compiled.json").read_text()) == before


def test_graphs_that_were_replaced_since_are_not_run(folder: Path) -> None:
    """Graphs are opened when they are first run; by then another portfolio's may lie under the same name."""
    opened = CompiledNetwork.open(folder)
    first, other = opened.configurations[:2]
    os.utime(folder / "weights.bin", (1, 1))  # the same content is no other file
    session, rows = CompiledSession(opened, images(opened, 2)), np.arange(2)
    expected = session.logits(first, rows)
    compiled_again(folder)
    with pytest.raises(UserError, match="float32 was compiled anew while it was in use: start again what uses it"):
        session.logits(other, rows)
    np.testing.assert_array_equal(CompiledSession(opened, images(opened, 2)).logits(first, rows), expected)


def test_few_graphs_stay_open_where_memory_is_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamic.compiled.folder.available_memory", lambda: 0)
    opened, rows = CompiledNetwork.open(folder), np.arange(2)
    batch = images(opened, 2)
    assert len(opened.configurations) > 3
    monkeypatch.setattr(opened, "_most", 2)
    for _ in range(2):
        for configuration in opened.configurations:
            made = CompiledSession(opened, batch).logits(configuration, rows)
            expected = CompiledSession(family("residual").compiled, batch).logits(configuration, rows)
            np.testing.assert_array_equal(made, expected)
            assert len(opened._graphs) <= 2


def test_all_graphs_are_opened_ahead_one_after_another_until_told_to_stop(folder: Path) -> None:
    stopped, opened = threading.Event(), CompiledNetwork.open(folder)
    loading, load = list[Path](), opened._runtime.load

    def stops_at_the_third(path: Path, tensors: Any) -> Any:
        loading.append(path)
        if len(loading) == 3:
            stopped.set()
        return load(path, tensors)

    opened._runtime.load = stops_at_the_third  # type: ignore[method-assign]
    assert not opened.open_all(stopped)
    assert len(opened._graphs) == len(loading) == 3
    stopped.clear()
    assert opened.open_all(stopped)
    assert len(opened._graphs) == len(loading) == len(opened.record.graphs)
    batch, rows = images(opened, 2), np.arange(2)
    for configuration in opened.configurations:
        CompiledSession(opened, batch).logits(configuration, rows)
    assert len(loading) == len(opened.record.graphs), "whoever asks finds all open"


def test_an_open_graph_runs_while_another_is_opened(folder: Path) -> None:
    opened, begun, go_on = CompiledNetwork.open(folder), threading.Event(), threading.Event()
    session, rows = CompiledSession(opened, images(opened, 2)), np.arange(2)
    session.logits(opened.default, rows)
    load = opened._runtime.load

    def slowly(path: Path, tensors: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return load(path, tensors)

    opened._runtime.load = slowly  # type: ignore[method-assign]
    thread = threading.Thread(target=opened.open_all, args=(threading.Event(),))
    thread.start()
    assert begun.wait(20)
    CompiledSession(opened, images(opened, 2)).logits(opened.default, rows)
    go_on.set()
    thread.join()
    assert len(opened._graphs) == len(opened.record.graphs)


def test_no_more_are_opened_ahead_than_fit_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OptimisedGraphs, "find", lambda *_: None)
    monkeypatch.setattr("dynamic.compiled.folder.available_memory", lambda: 0)
    opened = CompiledNetwork.open(folder)
    assert not opened.open_all(threading.Event(), processes=2)
    assert len(opened._graphs) == FEWEST // 2
    first = list(opened._graphs)
    assert not opened.open_all(threading.Event())
    assert list(opened._graphs)[: FEWEST // 2] == first, "none was closed for it"
    assert len(opened._graphs) == FEWEST


def test_opening_ahead_says_what_cannot_be_opened(folder: Path) -> None:
    opened = CompiledNetwork.open(folder)
    compiled_again(folder)
    with pytest.raises(UserError, match="was compiled anew"):
        opened.open_all(threading.Event())


def test_the_default_is_always_compiled(folder: Path) -> None:
    both = family("residual")
    made = compiled_again(folder, configurations=both.configurations[1:2])
    assert made.configurations == (both.configurations[1], both.configurations[0])


def test_refuses_networks_that_it_cannot_compile(folder: Path) -> None:
    both = family("residual")
    default = both.eager.default
    with pytest.raises(UserError, match="a packed network cannot be compiled"):
        compile_network(
            both.eager.for_inference(packed=True),
            folder,
            configurations=[default],
            resolution=SIDE,
            needs=Needs(),
            looks={},
        )
    with pytest.raises(UserError, match="s2-9_d1-1_k3-3 is needed, but not in the portfolio"):
        compiled_again(folder, needs=Needs(ladders=((both.configurations[5], default),)))
    with pytest.raises(UserError, match="no precision is called 'int4': choose from float32, bfloat16, int8"):
        compiled_again(folder, precision="int4")
    with pytest.raises(UserError, match="int8 needs images to calibrate on"):
        compiled_again(folder, precision="int8")
    with pytest.raises(UserError, match="does not fit the network at 0 x 0"):
        compiled_again(folder, resolution=0)


@torch.fx.wrap
def counted(x: Tensor) -> Tensor:
    """Reads the number of images as a number of Python's, which a graph can only keep as it was."""
    return x.reshape(len(x), 5)


class Counting(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return counted(super().forward(x))


class Singular(Residual):
    """Does what neither exporter has an operator for."""

    def forward(self, x: Tensor) -> Tensor:
        made = super().forward(x)
        return made + torch.linalg.svdvals(made[:, :, None])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Counting, "compiled, the way to node 4 does not run on 1 images: part of the network reads the number of images"),
        (Singular, "what follows b.conv cannot be written as a static graph: .*; serve this network uncompiled"),
    ],
)
def test_refuses_what_a_graph_cannot_say(tmp_path: Path, kind: type[Residual], said: str) -> None:
    network = DynamicNetwork(kind(), ["a.conv", "b.conv"], resolution=SIDE).for_inference()
    with pytest.raises(UserError, match=said) as error:
        compile_network(
            network, tmp_path / "float32", configurations=[network.default], resolution=SIDE, needs=Needs(), looks={}
        )
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["residual", "recalibrated dense"])
def test_openvino_equals_onnx_runtime(name: str) -> None:
    both = family(name)
    other = CompiledNetwork.open(both.compiled.folder, "openvino")
    for count in (1, 3):
        batch, rows = images(other, count), np.arange(count)
        sessions = [CompiledSession(network, batch) for network in (both.compiled, other)]
        for configuration in both.needs.ladders[0]:
            made, expected = (session.logits(configuration, rows) for session in sessions)
            np.testing.assert_allclose(made, expected, atol=1e-4)
