"""Curves, bins by object side, the shifted test, figures: each on observations made up from a known rule."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any
from unittest import mock

import matplotlib
import numpy as np
import pytest

from selector.learning.fitting import calibrate
from selector.observation.observations import Observations
from selector.policies import make
from selector.policies.base import Policy
from selector.policies.boosting import Correctness
from selector.policies.running import PolicyRuns, run_recorded
from selector.scoring import figures
from selector.scoring.by_side import by_side
from selector.scoring.curves import area, areas, dial_curves, static_points
from selector.scoring.learning_curve import learning_curve
from selector.scoring.ranking import Ranking, rank
from selector.scoring.shifted import beyond, shifted_test

Splits = tuple[Observations, Observations]


@pytest.fixture(scope="module")
def policies(ruled: Splits) -> list[Policy]:
    return [calibrate(policy, ruled[0]) for policy in make("correctness")]


@pytest.fixture(scope="module")
def ranking(policies: list[Policy], ruled: Splits) -> Ranking:
    return rank(policies, ruled[0], PolicyRuns(ruled[1]))


def test_rows_belong_to_their_outcomes(ranking: Ranking, ruled: Splits) -> None:
    test = ruled[1]
    assert set(ranking.outcomes) == {row["name"] for row in ranking.rows}
    for row in ranking.rows:
        outcome = ranking.outcomes[row["name"]]
        assert row["accuracy"] == (outcome.predicted == test.labels).mean()
        assert row["gmacs"] == pytest.approx(outcome.macs.mean() / 1e9)


def test_bins_by_side_add_up(ranking: Ranking, ruled: Splits) -> None:
    test = ruled[1]
    bins = by_side(ranking, test)
    assert len(bins) == 5
    assert sum(entry["images"] for entry in bins) == len(test)
    assert all(first["sides"][1] <= second["sides"][0] for first, second in itertools.pairwise(bins))
    for name in ("default", "single_best", "oracle", "correctness/accuracy"):
        row = next(row for row in ranking.rows if row["name"] == name)
        for key in ("accuracy", "gmacs"):
            mean = np.average([entry[key][name] for entry in bins], weights=[entry["images"] for entry in bins])
            assert mean == pytest.approx(row[key])
    # The rule goes by side: the default is right on the smallest objects and on no others.
    assert bins[0]["accuracy"]["default"] > 0.9
    assert bins[-1]["accuracy"]["default"] < 0.1
    assert by_side(ranking, replace(test, sides=None)) == []


def test_curves_and_areas(policies: list[Policy], ruled: Splits) -> None:
    test = ruled[1]
    curves = dial_curves(policies, PolicyRuns(test))
    assert set(curves) == {policy.name for policy in policies if policy.dials}
    found = areas(curves, test)
    assert found["correctness"] > found["static"] + 0.1
    static = static_points(test)
    assert static["accuracy"] == test.correct.mean(axis=0).tolist()
    # By hand: from (1, 0.2) straight to (3, 0.6), flat to 4; what is cheaper than all points reaches nothing.
    points = [(1.0, 0.2), (3.0, 0.6), (3.5, 0.3)]
    assert area(points, 1, 3) == pytest.approx(0.4)
    assert area(points, 3, 4) == pytest.approx(0.6)
    assert area(points, 0, 0.9) == 0


def test_unlike_images_are_those_beyond_the_label_images(policies: list[Policy], ruled: Splits) -> None:
    label, test = ruled
    narrow = label.rows(np.asarray((label.sides > 0.5) & (label.sides < 2)))
    unlike = beyond(test, narrow)
    assert 0 < len(unlike) < len(test)
    assert ((unlike.sides < narrow.sides.min()) | (unlike.sides > narrow.sides.max())).all()
    found = shifted_test("other", policies, label, unlike)
    assert (found["run"], found["images"]) == ("other", len(unlike))
    assert all(row["versus_default"]["p_holm"] is not None for row in found["policies"] if row["learned"])


def test_a_learning_curve_of_few_images(policies: list[Policy], ranking: Ranking, ruled: Splits) -> None:
    label, test = ruled
    rows = learning_curve(policies, label.rows(np.arange(300)), test, ranking.references)
    assert [(row["policy"], row["images"]) for row in rows] == [("correctness", 250), ("correctness", 300)]
    assert rows[-1]["closed_gap"] > 0.8
    # What was fitted on all of them is not fitted again, and says the same.
    known = calibrate(Correctness(), label.rows(np.arange(300)))
    with mock.patch.object(Correctness, "fit", autospec=True, side_effect=Correctness.fit) as fitted:
        again = learning_curve([known], label.rows(np.arange(300)), test, ranking.references)
    assert fitted.call_count == 1
    assert [row["images"] for row in again] == [250, 300]
    point = known.point("accuracy", 1.0, np.inf)
    assert point is not None
    (outcome,) = run_recorded(known, test, [point.dial])
    assert again[-1]["accuracy"] == (outcome.predicted == test.labels).mean()


def test_figures_change_nothing_global(policies: list[Policy], ranking: Ranking, ruled: Splits) -> None:
    test = ruled[1]
    before = dict.copy(matplotlib.rcParams)  # RcParams.copy and == settle the backend by being asked
    result: dict[str, Any] = {
        "run": {"default_gmacs": test.costs.default / 1e9},
        "policies": ranking.rows,
        "static": static_points(test),
        "networks": [{"name": "narrow", "gmacs": 0.003, "accuracy": 0.5}],
        "curves": dial_curves(policies, PolicyRuns(test)),
        "by_side": by_side(ranking, test),
        "learning_curve": [
            {"policy": "correctness", "images": images, "closed_gap": 0.1, "closed_gap_ci": [0.0, 0.2]}
            for images in (250, 500)
        ],
    }
    for draw in (figures.frontier, figures.gaps, figures.learning_curve, figures.by_side):
        figure = draw(result)
        assert figure.axes[0].has_data()
    assert "narrow" in [text.get_text() for text in figures.frontier(result).axes[0].texts]
    labels = [text.get_text() for text in figures.frontier(result).legends[0].get_texts()]
    assert "a randomised mixture of two of them" in labels
    assert dict.copy(matplotlib.rcParams) == before
    assert not matplotlib.pyplot.get_fignums()
