"""Optimised graphs: the answers of those that ONNX Runtime optimises as it opens them, or none."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dynamic import UserError
from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.optimising import OPTIMISED, OptimisedGraphs, optimise
from tests.dynamic.compiled.networks import family, images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = Path(shutil.copytree(family("residual").compiled.folder, tmp_path / "float32"))
    if not (found / OPTIMISED).is_dir():
        pytest.skip("nothing tells what this CPU has")
    return found


def answers(folder: Path) -> list[np.ndarray]:
    """Of all graphs from the images, every output."""
    network = CompiledNetwork.open(folder)
    batch = images(network, 3)
    graphs = [graph for graph in network.record.graphs if graph.start is None]
    return [made for graph in graphs for made in network.run(graph, {"images": batch})]


def is_optimised(folder: Path) -> bool:
    return OptimisedGraphs.find(folder, CompiledNetwork.open(folder).record) is not None


def test_they_answer_as_plain_graphs_do(folder: Path) -> None:
    assert is_optimised(folder)
    optimised = answers(folder)
    shutil.rmtree(folder / OPTIMISED)
    assert not is_optimised(folder)
    plain = answers(folder)
    assert len(plain) > 20
    for one, other in zip(optimised, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_they_are_made_where_they_lie_and_leave_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder elsewhere may have no room for a network."""
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    shutil.rmtree(folder / OPTIMISED)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
    optimise(folder, CompiledNetwork.open(folder).record)
    assert is_optimised(folder)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_equal_tensors_lie_in_memory_once(folder: Path) -> None:
    found = OptimisedGraphs.find(folder, CompiledNetwork.open(folder).record)
    assert found is not None
    mapped = found.mapped()
    each = {tensor.ctypes.data: tensor.nbytes for tensors in mapped.values() for tensor in tensors.values()}
    everywhere = sum(tensor.nbytes for tensors in mapped.values() for tensor in tensors.values())
    assert sum(each.values()) <= (folder / OPTIMISED / "weights.bin").stat().st_size < everywhere / 4


def test_those_for_another_cpu_or_of_other_graphs_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in ("onnxruntime 1.0.0 avx512f", None):
        monkeypatch.setattr("dynamic.compiled.optimising.layout_of_onnxruntime", lambda layout=layout: layout)
        assert not is_optimised(folder)
    monkeypatch.undo()
    other = family("recalibrated").compiled.folder
    shutil.rmtree(folder / OPTIMISED)
    shutil.copytree(other / OPTIMISED, folder / OPTIMISED)
    assert not is_optimised(folder)
    assert len(answers(folder)) > 20


@pytest.mark.parametrize("name", ["weights.bin", "000.onnx", "optimised.json"])
def test_damage_is_refused(folder: Path, name: str) -> None:
    path = folder / OPTIMISED / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"is damaged|cannot be read|missing or damaged") as error:
        CompiledNetwork.open(folder)
    assert str(path) in str(error.value)
