from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dynamic
from dynamic import UserError
from dynamic.models import DYNAMIC_LAYERS
from oracle.data.sources import open_source
from oracle.evaluation import bounds
from oracle.evaluation.exact_bounds import Order, find_bounds, greedy_order
from oracle.outcomes import read_outcomes
from oracle.pipeline import exact_bounds, run
from oracle.settings import RunSettings
from oracle.study.fig6 import efficiency
from oracle.study.outcomes import SpaceOutcomes
from tests.conftest import settled
from tests.image_folders import fill
from tests.oracle.conftest import run_here


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from([0.05, 0.5, 0.95]),
)
def test_it_equals_the_full_matrix(seed: int, images: int, columns: int, easy: float) -> None:
    stream = np.random.default_rng(seed)
    labels = stream.integers(0, 4, images)
    predicted = np.where(stream.random((images, columns)) < easy, labels[:, None], stream.integers(0, 4, (images, columns)))
    macs = stream.integers(1, 6, columns)
    default = int(stream.integers(columns))
    pilot = predicted[: max(1, images // 3)] == labels[: max(1, images // 3), None]
    order = Order(greedy_order(pilot, macs), greedy_order(~pilot, macs))
    ran = np.zeros((images, columns), int)

    def run(rows: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
        ran[np.ix_(rows, wanted)] += 1
        return predicted[np.ix_(rows, wanted)]

    found = find_bounds(run, labels, macs, default, order, lambda wanted: int(macs[list(wanted)].sum()))
    correct = predicted == labels[:, None]
    assert np.array_equal(found.best, correct.any(axis=1))
    assert np.array_equal(found.worst, correct.all(axis=1))
    assert np.array_equal(found.static, correct[:, default])
    cheap = bounds.cost_order(macs)
    for target, got in ((predicted[:, default], found.as_default), (labels, found.as_best)):
        for image in range(images):
            matches = [c for c in cheap if predicted[image, c] == target[image]]
            assert got[image] == (matches[0] if matches else cheap[0])
    assert found.macs == (ran * macs).sum()  # what is reported is what was run
    assert sorted(order.best) == sorted(order.worst) == list(range(columns))


def test_greedy_order_prefers_what_decides_most_for_its_cost() -> None:
    decides = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
    assert greedy_order(decides, np.array([4, 1, 9, 2])) == [1, 2, 0, 3]


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", list(DYNAMIC_LAYERS))
def test_random_networks_have_the_bounds_of_their_full_run(tmp_path: Path, name: str) -> None:
    network = dynamic.load(settled(f"{name}-slim"), dynamic_layers=DYNAMIC_LAYERS[name])
    (tmp_path / "a.json").write_text(
        '{"stride": [[2], [1, 2], [2], [0.5, 1, 2, 4]], "kernel_size": [[3], [1, 3], [3], [3]]}'
    )
    (tmp_path / "b.json").write_text('{"dilation": [[1], [1, 2], [1, 3], [1, 4]]}')
    if name == "resnet50" or name == "resnext50_32x4d":
        (tmp_path / "a.json").write_text(
            '{"stride": [[1], [1, 2], [2], [0.5, 1, 2, 4]], "kernel_size": [[3], [1, 3], [3], [3]]}'
        )
    options = {"space": f"{tmp_path}/a.json,{tmp_path}/b.json", "images": 12, "region": 5, "dtype": "float64"}
    run(RunSettings(**options, out=tmp_path / "full"), network)  # type: ignore[arg-type]
    result = exact_bounds(RunSettings(**options, out=tmp_path / "bounds"), network)  # type: ignore[arg-type]
    outcomes = read_outcomes(tmp_path / "full")
    frame = pd.read_parquet(tmp_path / "bounds" / "bounds.parquet")
    for space in ("a", "b"):
        ours = SpaceOutcomes.of(outcomes, dynamic.space(f"{tmp_path}/{space}.json", network), network.default)
        mine = frame[frame["space"] == space]
        reached = bounds.cases(ours.quality, ours.correct)
        assert np.array_equal(mine["best"], reached.best)
        assert np.array_equal(mine["worst"], reached.worst)
        expected = efficiency(ours)
        for key, column in (("same_as_default", "as_default_macs"), ("same_as_best", "as_best_macs")):
            assert mine[column].mean() == pytest.approx(expected[key]["macs"]["value"])
            assert result["spaces"][space][column]["value"] == pytest.approx(mine[column].mean())
        assert result["spaces"][space]["macs_spent"] > 0


@pytest.mark.slow
def test_it_resumes_and_saves_macs(tmp_path: Path) -> None:
    space = tmp_path / "small.json"
    space.write_text('{"dilation": [[1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]}')
    options = ("--bounds-only", "--space", space, "--images", 40, "--region", 10)
    first = run_here(*options, "--out", tmp_path / "run", "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout.splitlines()[-1])
    assert 0 < result["spaces"]["small"]["macs_saved"] < 1
    # As if it had been killed behind the second region.
    shutil.copytree(tmp_path / "run" / "bounds", tmp_path / "cut" / "bounds")
    for name in ("small-0000020.parquet", "small-0000030.parquet"):
        (tmp_path / "cut" / "bounds" / name).unlink()
    assert run_here(*options, "--out", tmp_path / "cut").returncode == 0
    assert (tmp_path / "cut" / "bounds.json").read_bytes() == (tmp_path / "run" / "bounds.json").read_bytes()
    other = run_here(*options, "--out", tmp_path / "cut", "--seed", 1)
    assert other.returncode == 2
    assert "holds another run (seed is 0 there, 1 here)" in other.stderr
    with pytest.raises(UserError, match="without --study and --recalibrate"):
        exact_bounds(RunSettings(bounds_only=True, study="all"))


def test_a_pilot_whose_one_image_cannot_be_read_orders_nothing_and_the_rest_is_bounded(tmp_path: Path) -> None:
    keys = fill(tmp_path / "photos", {str(number): 2 for number in range(10)})
    options = {"dataset": "imagefolder", "data_dir": tmp_path / "photos", "space": str(tmp_path / "two.json")}
    (tmp_path / "two.json").write_text('{"stride": [[1], [2], [2], [2, 4]], "dilation": [[1], [1], [1], [1]]}')
    settings_ = RunSettings(bounds_only=True, out=tmp_path / "run", **options)  # type: ignore[arg-type]
    network = dynamic.load("resnet50-slim")
    source = open_source("imagefolder", network.info, images=None, data_dir=tmp_path / "photos")
    first = str(source.keys[source.splits == "test"][0])
    assert first in keys
    (tmp_path / "photos" / first).write_bytes(b"no picture")
    found = exact_bounds(settings_)
    assert (found["images"], found["unreadable"]) == (9, 1)
