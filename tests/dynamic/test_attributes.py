"""Attributes of one's own: the page's rotation, held to a network whose kernels are turned by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

import dynamic
from dynamic import Configuration, DynamicNetwork, Space, UserError
from dynamic.attributes import registry
from dynamic.configuration import make_space, own_attributes
from dynamic.norms import Statistics
from dynamic.recalibration import recalibrate
from tests.pages import rotation
from tests.plain_loop import SitesLoop

DEFAULT = Configuration((1, 2), (1, 1), (3, 3))


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_all", {})
    monkeypatch.setattr(registry, "_sources", {})


@pytest.fixture
def turning(tmp_path: Path) -> None:
    registry.register(rotation(tmp_path))


def gain(folder: Path) -> Path:
    """An attribute whose options are fractions: the output is scaled by them."""
    path = folder / "gain.py"
    path.write_text(
        "from dynamic.attributes.attribute import Attribute, Kernel\n"
        "ATTRIBUTE = Attribute(name='gain', letter='g', right='positive', valid=lambda o: o > 0, fractions=True,\n"
        "    kernel=lambda weight, option: Kernel(weight, option))\n"
    )
    return path


class Small(nn.Module):
    """One plain dynamic layer, one of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = Conv2dSame(8, 8, 3, stride=2)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.second(torch.relu(self.norm(self.first(x))))).mean((2, 3)))


def test_ids_round_trip_and_keep_their_order(turning: None) -> None:
    turned = DEFAULT.changed({"rotation": (0, 3)})
    assert turned.id == "s1-2_d1-1_k3-3_r0-3"
    assert Configuration.parse(turned.id) == turned
    assert hash(Configuration.parse(turned.id)) == hash(turned)
    assert turned.options("rotation") == (0, 3)
    assert DEFAULT.options("rotation") == (0, 0)
    assert turned.changed({"rotation": (0, 0)}) == DEFAULT == Configuration.parse("s1-2_d1-1_k3-3_r0-0")
    assert sorted([turned, DEFAULT.changed({"stride": (2, 2)}), DEFAULT])[:2] == [DEFAULT, turned]
    assert own_attributes([DEFAULT, turned]) == ["rotation"]


def test_what_does_not_turn_is_what_it_was(tmp_path: Path) -> None:
    spaces = {name: make_space(name, DEFAULT) for name in ("stride", "dilation", "size", "efficiency")}
    registry.register(rotation(tmp_path))
    for name, space in spaces.items():
        assert make_space(name, DEFAULT).digest == space.digest
        assert list(make_space(name, DEFAULT)) == list(space)


def test_spaces_vary_it(turning: None, tmp_path: Path) -> None:
    assert len(make_space("rotation", DEFAULT)) == 16
    assert len(make_space("rotation+stride", DEFAULT)) == 256
    listed = tmp_path / "turns.json"
    listed.write_text('{"rotation": [[0], [0, 2]], "stride": [[1], [2, 5]]}')
    assert make_space(str(listed), DEFAULT).ids == [
        "s1-2_d1-1_k3-3",
        "s1-2_d1-1_k3-3_r0-2",
        "s1-5_d1-1_k3-3",
        "s1-5_d1-1_k3-3_r0-2",
    ]
    listed.write_text('{"rotation": [[0], [4]]}')
    with pytest.raises(UserError, match="each must be 0, 1, 2 or 3 quarter turns"):
        make_space(str(listed), DEFAULT)


@torch.no_grad()
def test_the_engine_computes_what_turned_kernels_do(turning: None) -> None:
    torch.manual_seed(0)
    original = Small().eval()
    network, images = DynamicNetwork(original, ["first", "second"]), torch.randn(3, 3, 16, 16)
    plain = [c for c in make_space("size", network.default) if max(c.kernel_size) < 7]
    turns = [(0, 0), (1, 0), (0, 2), (3, 1)]
    chosen = [c.changed({"rotation": turns[i % 4], "stride": (1, 1 + i % 3)}) for i, c in enumerate(plain)]
    expected = []
    for configuration in chosen:
        turned = copy.deepcopy(original)
        for layer, conv in enumerate((turned.first, turned.second)):
            conv.weight.copy_(torch.rot90(conv.weight, configuration.options("rotation")[layer], (2, 3)).clone())
        everything = ("stride", "dilation", "kernel_size")
        sites = [("first", 0, everything, False), ("second", 1, everything, False)]
        expected.append(SitesLoop(turned, sites, frozenset({"second"})).set(configuration)(images))
    for fast in (network, network.for_inference()):
        for columns, logits in fast.comprehensive(images, chosen):
            for column in columns:
                torch.testing.assert_close(logits, expected[column], rtol=1e-4, atol=1e-4)
        mixed = fast(images, chosen[1:4])
        torch.testing.assert_close(mixed, torch.stack([expected[i + 1][i] for i in range(3)]), rtol=1e-4, atol=1e-4)
    assert network.macs(chosen[1].changed({"rotation": (0, 0)}), 16) == network.macs(chosen[1], 16)


def test_statistics_by_prefix_tell_turns_apart(turning: None, tmp_path: Path) -> None:
    registry.register(gain(tmp_path))
    network = DynamicNetwork(Small(), ["first", "second"])
    chosen = [network.default, network.default.changed({"rotation": (1, 0), "gain": (0.1, 1)})]
    images = torch.randn(16, 3, 16, 16)
    statistics = recalibrate(network, images, chosen)
    assert [len(known) for known in statistics.prefixes] == [1, 2, 2]
    statistics.save(tmp_path / "statistics")
    again = Statistics.load(tmp_path / "statistics")
    assert (again.prefixes, again.digest) == (statistics.prefixes, statistics.digest)


def test_layers_without_a_kernel_do_not_turn(turning: None) -> None:
    network = DynamicNetwork(Small(), ["first", "pool"])
    with pytest.raises(UserError, match="changes the rotation of layer B: pool is a pool"):
        network.check(network.default.changed({"rotation": (0, 1)}))


def test_networks_that_were_loaded_before_are_refused(tmp_path: Path) -> None:
    network = DynamicNetwork(Small(), ["first", "second"])
    registry.register(rotation(tmp_path))
    with pytest.raises(UserError, match="registered after the network was loaded"):
        network.check(network.default.changed({"rotation": (0, 1)}))


def test_the_same_file_twice_is_one(tmp_path: Path) -> None:
    first = registry.register(rotation(tmp_path))
    (tmp_path / "copy").mkdir()
    assert registry.register(rotation(tmp_path / "copy")) is first
    with pytest.raises(UserError, match=r"'rotation' \(r\) cannot be registered beside 'rotation' \(r\)"):
        registry.register(rotation(tmp_path, ("by so many", "by that many")))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('letter="r"', 'letter="s"', r"'rotation' \(s\) cannot be registered beside 'stride' \(s\)"),
        ('letter="r"', 'letter="rot"', "a letter is one of them"),
        ('"rotation": lambda', '"efficiency": lambda', "a space called efficiency is there already"),
        ("ATTRIBUTE = ", "THING = ", "defines no ATTRIBUTE"),
        ("kernel=turned,", "", "rotation changes nothing"),
        ("return Kernel(", "return (", "must give a Kernel, not a Tensor"),
        ("weight.rot90(int(turns), (2, 3))", "weight.mean(1)", "must keep the channels"),
        (
            "weight.rot90",
            "weight.rotate",
            r"rotation.py, line \d+: AttributeError: 'Tensor' object has no attribute 'rotate'",
        ),
        ("neutral=0", "neutral=7", "each must be 0, 1, 2 or 3 quarter turns"),
        ("import itertools", "import itertools_", r"rotation.py, line 3: ModuleNotFoundError"),
        ("import itertools", "import", r"rotation.py, line 3: "),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = rotation(tmp_path, (before, after))
    with pytest.raises(UserError, match=message) as error:
        registry.register(path)
    assert "rotation.py" in str(error.value)
    assert "\n" not in str(error.value)
    assert "rotation" not in registry.attributes()


def test_unknown_attributes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no attribute has the letter 'r': name its file \(--attributes FILE.py\)"):
        Configuration.parse("s1-2_d1-1_k3-3_r0-3")
    with pytest.raises(UserError, match="no attribute is called rotation"):
        Configuration.of({"stride": (1,), "dilation": (1,), "kernel_size": (3,), "rotation": (1,)})
    with pytest.raises(UserError, match="it has 's' twice"):
        Configuration.parse("s1_d1_k3_s1")
    listed = tmp_path / "turns.json"
    listed.write_text('{"rotation": [[0], [1]]}')
    with pytest.raises(
        UserError, match=r"lists of options by stride, dilation, kernel_size \(another attribute: --attributes"
    ):
        make_space(str(listed), DEFAULT)
    with pytest.raises(UserError, match="cannot read the attribute"):
        registry.register(tmp_path / "missing.py")


def test_options_that_are_fractions(tmp_path: Path) -> None:
    registry.register(gain(tmp_path))
    configuration = DEFAULT.changed({"gain": (0.25, 1)})
    assert configuration.id == "s1-2_d1-1_k3-3_g0.25-1"
    assert Configuration.parse(configuration.id) == configuration
    network = DynamicNetwork(Small(), ["first", "second"])
    with torch.no_grad():
        conv, x = network.original.first, torch.randn(1, 3, 8, 8)
        option = network.program.sites[0].option(network.default.changed({"gain": (0.25, 1)}))
        torch.testing.assert_close(network.program.sites[0].module(x, option), conv(x) / 4)
    assert dynamic.fitting_space(Space("one", [network.default, configuration]), network, 16)[1] == []
