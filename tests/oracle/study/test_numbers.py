from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import dynamic
from dynamic import Configuration, Space
from oracle.evaluation.estimates import resampled
from oracle.outcomes import read_outcomes
from oracle.pipeline import run
from oracle.settings import RunSettings
from oracle.study.fig4 import subsets
from oracle.study.fig5 import by_side
from oracle.study.fig6 import efficiency
from oracle.study.outcomes import SpaceOutcomes, gains
from oracle.study.preferences import preferences, shifts
from oracle.study.receptive_field import receptive_field_correlations
from oracle.study.table3 import combine, greedy_list

FIXED = ((1, 1, 1, 1), (3, 3, 3, 3))
DEFAULT = Configuration((1, 2, 2, 2), *FIXED)


def outcomes_of(
    space: Space, predicted: list[list[int]], labels: list[int], macs: list[int], **more: object
) -> SpaceOutcomes:
    array, truth = np.array(predicted), np.array(labels)
    correct = array == truth[:, None]
    quality = correct + 0.5 * np.linspace(0, 0.1, array.size).reshape(array.shape)
    default = space.ids.index(DEFAULT.id)
    return SpaceOutcomes(space, default, array, correct, quality.astype(np.float32), np.array(macs), more.get("sides"))  # type: ignore[arg-type]


@pytest.fixture
def three() -> Space:
    """D's stride is 1, 2 (the default) or 4."""
    return Space("three", [Configuration((1, 2, 2, d), *FIXED) for d in (1, 2, 4)])


def test_efficiency_by_hand(three: Space) -> None:
    # Costs 40, 20, 10; default in the middle.
    outcomes = outcomes_of(
        three,
        [
            [1, 1, 1],  # all agree: 10
            [1, 2, 3],  # only itself agrees with the default: 20; the first is right: 40
            [3, 3, 2],  # as the default: 20; none is right: the cheapest, 10
            [2, 0, 1],  # as the default: 20; the last is right: 10
        ],
        [1, 1, 1, 1],
        [40, 20, 10],
    )
    found = efficiency(outcomes)
    assert found["default_macs"] == 20
    assert found["static"]["value"] == 0.25
    assert found["same_as_default"]["macs"]["value"] == (10 + 20 + 20 + 20) / 4
    assert found["same_as_default"]["accuracy"]["value"] == 0.25
    assert found["same_as_best"]["macs"]["value"] == (10 + 40 + 10 + 10) / 4
    assert found["same_as_best"]["accuracy"]["value"] == 0.75
    assert found["same_as_best"]["times_fewer"]["value"] == pytest.approx(20 / 17.5)
    assert found["cheaper_as_good"]["macs"] == 10  # the last is right twice, the default once


@pytest.mark.nightly
@pytest.mark.slow
def test_subset_bounds_equal_fresh_runs_of_the_subset_spaces(tmp_path: Path) -> None:
    """All 15 subsets of four layers, each against a run of its own."""
    options = {"A": [1, 2], "B": [2, 4], "C": [2, 1], "D": [2, 0.5]}
    (tmp_path / "full.json").write_text(json.dumps({"stride": list(options.values())}))
    network = dynamic.load("resnet50-slim")
    full = RunSettings(space=str(tmp_path / "full.json"), images=6, out=tmp_path / "full")
    run(full)
    space = dynamic.space(full.space, network)
    derived = subsets(SpaceOutcomes.of(read_outcomes(full.out), space, network.default), network.default)
    assert [row["layers"] for row in derived] == [
        "".join(layers) for size in (1, 2, 3, 4) for layers in itertools.combinations("ABCD", size)
    ]
    for row in derived:
        strides = [o if layer in row["layers"] else o[:1] for layer, o in options.items()]
        path = tmp_path / f"only{row['layers']}.json"
        path.write_text(json.dumps({"stride": strides}))
        fresh = run(RunSettings(space=str(path), images=6, out=tmp_path / path.stem))["spaces"][path.stem]["test"]
        assert row["configurations"] == 2 ** len(row["layers"])
        assert row["best"]["value"] == fresh["best"]
        assert row["worst"]["value"] == fresh["worst"]
        assert row["volatility"]["value"] == pytest.approx(fresh["best"] - fresh["worst"])


def test_greedy_lists_are_filled_and_combined(three: Space) -> None:
    label = outcomes_of(three, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], [1, 1, 1], [40, 20, 10])
    # The default covers two for less than the first; the last covers the third image; the first fills the list.
    assert [c.stride[3] for c in greedy_list(label, 3)] == [2, 4, 1]
    assert len(greedy_list(label, 2)) == 2
    dilated = [dataclasses.replace(DEFAULT, dilation=(1, 1, 1, d)) for d in (1, 3)]
    combined = combine("both", [list(three)[1:], dilated], DEFAULT)
    assert {(c.stride[3], c.dilation[3]) for c in combined} == {(2, 1), (2, 3), (4, 1), (4, 3)}
    assert DEFAULT in combined


def test_gains_are_paired(three: Space) -> None:
    before = outcomes_of(three, [[0, 1, 0], [0, 0, 0], [1, 1, 1]], [1, 1, 1], [3, 2, 1])
    after = outcomes_of(three, [[1, 1, 1], [0, 1, 0], [1, 1, 1]], [1, 1, 1], [3, 2, 1])
    found = gains(before, after)
    assert found["worst"]["value"] == pytest.approx(1 / 3)
    assert found["best"]["value"] == pytest.approx(1 / 3)
    assert found["mean"]["value"] == pytest.approx((2 / 3 + 1 / 3) / 3)
    assert found["static"]["interval"][0] <= found["static"]["value"] <= found["static"]["interval"][1]


def test_preferences_count_solvable_images_only(three: Space) -> None:
    outcomes = outcomes_of(three, [[1, 0, 0], [0, 0, 1], [0, 0, 0]], [1, 1, 1], [3, 2, 1])
    found = preferences(outcomes)
    assert (found["solvable"], found["images"]) == (2, 3)
    assert found["layers"][3]["stride"]["shares"] == {"1": 0.5, "4": 0.5}
    assert found["layers"][3]["stride"]["mean"]["value"] == 2.5
    assert list(found["layers"][0]) == ["stride"]
    sides = np.array([10.0, 80.0, 40.0])
    bins = by_side(dataclasses.replace(outcomes, sides=sides), bins=3)
    assert [b["sides"] for b in bins] == [[10, 10], [40, 40], [80, 80]]
    assert [b["solvable"] for b in bins] == [1, 0, 1]


def test_correlations_find_what_was_planted() -> None:
    """Quality falls with the distance of the whole curve, not of its end."""
    space = Space("many", [Configuration((a, b, 2, 2), *FIXED) for a in (1, 2, 3, 4) for b in (1, 2, 3, 4)])
    curve = np.array([[10 * c.stride[0], 10 * c.stride[0] * c.stride[1]] for c in space], float)
    logs = np.log2(curve) - np.log2(curve[space.ids.index(DEFAULT.id)])
    stream = np.random.default_rng(0)
    quality = -np.linalg.norm(logs, axis=1) + 0.01 * stream.standard_normal((50, len(space)))
    sides = stream.uniform(10, 90, 50)
    outcomes = dataclasses.replace(
        outcomes_of(space, np.ones((50, len(space)), int).tolist(), [1] * 50, [1] * len(space), sides=sides),
        quality=quality.astype(np.float32),
    )
    found = receptive_field_correlations(outcomes, curve)["configurations"]
    assert found["growth"]["value"] > 0.95
    assert found["scalar"]["value"] < found["growth"]["value"]
    assert found["growth_minus_scalar"]["interval"][0] > 0


def test_intervals_of_a_constant_are_the_constant() -> None:
    assert resampled(np.mean, np.ones(5))["interval"] in ([1.0, 1.0], None)
    assert resampled(np.mean, np.ones(1)) == {"value": 1.0, "interval": None}


def test_shifts_pair_images_by_their_keys(three: Space) -> None:
    """D prefers strides 1, 4, none in the first view; 4, 4, 2 in the last, whose images come in another order."""
    first = outcomes_of(three, [[1, 0, 0], [0, 0, 1], [0, 0, 0]], [1, 1, 1], [3, 2, 1])
    last = outcomes_of(three, [[0, 1, 0], [0, 0, 1], [0, 0, 1]], [1, 1, 1], [3, 2, 1])
    keyed = [dataclasses.replace(o, keys=np.array(k)) for o, k in ((first, ["a", "b", "c"]), (last, ["c", "b", "a"]))]
    found = shifts(*keyed)
    # Solvable in both: a (1 to 4) and b (4 to 4).
    assert (found["paired"], found["images"]) == (True, 2)
    assert found["layers"][3]["stride"]["value"] == 1.5
    unknown = shifts(first, last)
    assert (unknown["paired"], unknown["images"]) == (False, 2)
    assert unknown["layers"][3]["stride"]["value"] == pytest.approx((4 + 4 + 2) / 3 - (1 + 4) / 2)
    nothing = shifts(first.rows(np.array([2])), last)
    assert nothing["layers"][3]["stride"] is None
