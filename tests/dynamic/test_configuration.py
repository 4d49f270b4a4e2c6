from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynamic
from dynamic import Configuration, Space, UserError
from dynamic.configuration import make_space

DEFAULT = Configuration((1, 2, 2, 2), (1, 1, 1, 1), (3, 3, 3, 3))


@st.composite
def configurations(draw: st.DrawFn, layers: int | None = None) -> Configuration:
    layers = layers or draw(st.integers(1, 6))
    strides = st.one_of(st.just(0.5), st.integers(1, 12))
    options = (strides, st.integers(1, 12), st.integers(1, 12))
    return Configuration(*(tuple(draw(st.lists(option, min_size=layers, max_size=layers))) for option in options))


@given(configurations())
def test_ids_are_stable_names(configuration: Configuration) -> None:
    again = Configuration.parse(configuration.id)
    assert again == configuration
    assert hash(again) == hash(configuration)


@given(st.lists(configurations(2), min_size=1))
def test_a_space_is_ordered_and_has_no_doubles(chosen: list[Configuration]) -> None:
    space = Space("mine", chosen + chosen[::-1])
    assert list(space) == sorted(set(chosen))
    assert space.digest == Space("other", reversed(chosen)).digest


@pytest.mark.parametrize(
    ("name", "count"),
    [("stride", 361), ("stride-all", 400), ("dilation", 625), ("size", 625), ("efficiency", 4096)],
)
def test_named_spaces(name: str, count: int) -> None:
    space = make_space(name, DEFAULT)
    assert len(space) == count
    assert DEFAULT in space


def test_361_strides_are_the_cheapest_on_resnet50() -> None:
    network = dynamic.load("resnet50", weights=None)
    everything = dynamic.space("stride-all", network)
    macs = network.costs.of_space(everything, 224)
    cheapest = sorted(range(400), key=lambda i: (macs[i], everything[i]))[:361]
    assert set(dynamic.space("stride", network)) == {everything[i] for i in cheapest}


def test_layers_a_and_b_have_no_half_stride() -> None:
    strides = {configuration.stride for configuration in make_space("stride-all", DEFAULT)}
    assert strides == set(itertools.product(*[(1, 2, 3, 4)] * 2, *[(0.5, 1, 2, 3, 4)] * 2))


@pytest.mark.slow
def test_the_default_alone_is_a_space() -> None:
    assert list(make_space("default", DEFAULT)) == [DEFAULT]


def test_combinations_of_attributes() -> None:
    default = Configuration((1, 2), (1, 1), (3, 3))
    space = make_space("stride+dilation", default)
    assert len(space) == 16 * 25
    assert {c.kernel_size for c in space} == {(3, 3)}
    with pytest.raises(UserError, match="varies stride twice"):
        make_space("stride+efficiency", default)
    assert len(make_space("stride+dilation", DEFAULT)) == 361 * 625
    with pytest.raises(UserError, match="141,015,625 configurations, more than 500,000"):
        make_space("stride+dilation+size", DEFAULT)


def test_spaces_from_files(tmp_path: Path) -> None:
    options = tmp_path / "options.json"
    options.write_text(json.dumps({"stride": [[1], [2, 1], [2], [2, 0.5]], "dilation": [[1], [1], [1, 3], [1]]}))
    assert len(make_space(str(options), DEFAULT)) == 8
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps([DEFAULT.id, "s1-2-2-1_d1-1-1-1_k3-3-3-3"]))
    space = make_space(str(ids), DEFAULT)
    assert space.name == "ids"
    assert [c.stride[3] for c in space] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ('["nonsense"]', "not a configuration id"),
        ('["s1_d1_k3"]', "configures 1 layers, the network has 4"),
        ('{"stride": [[1]]}', "stride must be a list of 4 lists"),
        ('{"speed": [[1]]}', "must hold a list of configuration ids"),
        ('{"stride": [[1], [1], [1], [0]]}', "each must be 0.5 or 1, 2, 3"),
        ('{"stride": [[1], [1], [1], [Infinity]]}', "each must be 0.5 or 1, 2, 3"),
        ('["s1..2-1-1-1_d1-1-1-1_k3-3-3-3"]', "not a configuration id"),
        ("[]", "is empty"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "space.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        make_space(str(path), DEFAULT)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(UserError, match="unknown configuration space 'strides': choose from stride, stride-all"):
        make_space("strides", DEFAULT)
    with pytest.raises(UserError, match=r"rename stride.json: 'stride' is the name of a space"):
        make_space("stride.json", DEFAULT)
    with pytest.raises(UserError, match="cannot read the configuration space"):
        make_space("missing.json", DEFAULT)
    with pytest.raises(UserError, match="dilation options"):
        Configuration((1,), (0.5,), (3,))  # type: ignore[arg-type]
