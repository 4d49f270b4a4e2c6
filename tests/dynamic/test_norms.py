from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import dynamic
from dynamic import Configuration, UserError
from dynamic.norms import PrefixNorms, Statistics
from dynamic.recalibration import recalibrate

FIXED = ((1, 1), (3, 3))
CONFIGURATIONS = [Configuration(strides, *FIXED) for strides in ((1, 2), (1, 1), (2, 2), (2, 0.5))]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.first = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.second = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.a(x)))
        return self.head(torch.relu(self.second(self.b(x))).mean((2, 3)))


@pytest.fixture
def network() -> dynamic.LoadedNetwork:
    return dynamic.load(Small(), dynamic_layers=["a", "b"])


@pytest.fixture
def statistics(network: dynamic.LoadedNetwork) -> Statistics:
    return recalibrate(network, torch.randn(6, 3, 16, 16), CONFIGURATIONS)


def test_a_file_gives_back_what_was_written(statistics: Statistics, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    statistics.save(path)
    again = Statistics.load(path)
    assert again.digest == statistics.digest
    assert again.prefixes == statistics.prefixes
    assert all(torch.equal(one, other) for one, other in zip(again.moments, statistics.moments, strict=True))


def test_flipped_bits_are_refused(statistics: Statistics, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    statistics.save(path)
    whole = path.read_bytes()
    tensors_begin = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) > tensors_begin + 300
    stream = np.random.default_rng(0)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << stream.integers(8)
        path.write_bytes(damaged)
        try:
            loaded = Statistics.load(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:  # a blank that pads the header, or the name of a fact that nobody asks for
            assert position < tensors_begin
            assert loaded.digest == statistics.digest


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_cut_and_missing_files_are_refused(statistics: Statistics, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "statistics.safetensors"
    with pytest.raises(UserError, match="holds no batch-norm statistics"):
        Statistics.load(path)
    with pytest.raises(UserError, match="holds no batch-norm statistics"):
        Statistics.load(tmp_path)
    statistics.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="holds no batch-norm statistics"):
        Statistics.load(path)


def _facts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["statistics"])  # noqa: SIM118


def test_facts_of_another_kind_are_refused(statistics: Statistics, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    statistics.save(path)
    tensors, facts = _facts(path)
    for wrong in ([], 3, [1], {**facts, "images": []}, {**facts, "segments": "many"}, {**facts, "segments": "2"}):
        save_file(tensors, path, {"statistics": json.dumps(wrong)})
        with pytest.raises(UserError, match=r"holds no batch-norm statistics|is damaged"):
            Statistics.load(path)
    save_file(tensors, path)
    with pytest.raises(UserError, match="holds no batch-norm statistics"):
        Statistics.load(path)
    # The same bytes under another type: the digest alone would not see it.
    moments = tensors["moments.1"]
    for disguised in (moments.view(torch.int32), moments.reshape(-1, 1, moments.shape[2])):
        save_file(tensors | {"moments.1": disguised}, path, {"statistics": json.dumps(facts)})
        with pytest.raises(UserError, match="holds no batch-norm statistics"):
            Statistics.load(path)


def test_a_file_without_a_digest_is_of_an_earlier_version(statistics: Statistics, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    statistics.save(path)
    tensors, facts = _facts(path)
    del facts["digest"]
    save_file(tensors, path, {"statistics": json.dumps(facts)})
    with pytest.raises(UserError, match=r"made by an earlier version.*recalibrate"):
        Statistics.load(path)


def test_the_shipped_statistics_are_whole() -> None:
    files = sorted(Path(__file__).parents[2].glob("selector/assets/*/statistics.safetensors"))
    assert len(files) == 2
    for path in files:
        assert Statistics.load(path).images == 1000


def test_the_networks_modules_stay_where_they_are(
    network: dynamic.LoadedNetwork, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``module.cpu()`` would move the modules of a network on another device away from it."""

    def moved(module: nn.Module) -> nn.Module:
        raise AssertionError(f"{module} was moved")

    monkeypatch.setattr(nn.Module, "cpu", moved)
    copied = network.copied("by_prefix", "cpu", torch.float32)
    norms = PrefixNorms(copied.program, statistics, "cpu", torch.float32)
    copied.norms = norms
    with torch.no_grad():
        assert copied(torch.randn(2, 3, 16, 16), CONFIGURATIONS[0]).shape == (2, 5)


class OnDeviceWithoutFloat64(Tensor):
    """Stands for a tensor on such a device (mps): ``cpu`` brings it home, ``double`` fails before that."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        if function is Tensor.double:
            raise TypeError("the device has no float64")
        made = super().__torch_function__(function, types, arguments, options or {})
        return made.as_subclass(Tensor) if function is Tensor.cpu else made


def test_devices_without_float64_can_be_recalibrated_on(network: dynamic.LoadedNetwork) -> None:
    images = torch.randn(6, 3, 16, 16)
    expected = recalibrate(network, images, CONFIGURATIONS)
    found = recalibrate(network, images.as_subclass(OnDeviceWithoutFloat64), CONFIGURATIONS)
    assert found.digest == expected.digest
