from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynamic import UserError
from oracle.evaluation import bounds
from oracle.evaluation.bounds import hull
from selector.learning.fitting import Played, calibrate, play
from selector.learning.portfolios import choose_portfolio
from selector.observation.images import Recorded
from selector.observation.observe import Observations
from selector.policies import make
from selector.policies.constant import Cheapest, Default, Oracle, SingleBest, quality_of
from selector.scoring.benchmark import scored
from selector.scoring.metrics import References, closed_gap, closed_gap_interval, measure, mixed

Splits = tuple[Observations, Observations]


def test_oracle_closes_all_and_single_best_nothing(noise: Splits) -> None:
    label, test = noise
    policies = [calibrate(policy, label) for policy in make("correctness,cascade")]
    rows, _ = scored(policies, label, test)
    by_name = {row["name"]: row for row in rows}
    assert list(by_name)[:6] == ["default", "single_best", "cheapest", "most_preferred", "random", "oracle"]
    assert by_name["oracle"]["closed_gap"] == 1.0
    assert by_name["oracle"]["recovered_gap"] == 1.0
    assert by_name["single_best"]["closed_gap"] == 0.0
    assert by_name["default"]["recovered_gap"] == 0.0
    # The oracle regrets nothing but the probability it gives up on images that nothing gets right.
    hopeless = ~test.correct.any(axis=1)
    quality = quality_of(test)[hopeless]
    given_up = (quality.max(axis=1) - quality[:, test.costs.whole.argmin()]).sum() / len(test)
    assert by_name["oracle"]["regret"] == pytest.approx(given_up, abs=1e-6)
    # Constants equal their column; the oracle its bound.
    for name, policy in (("default", Default()), ("cheapest", Cheapest()), ("single_best", SingleBest())):
        column = int(policy.fit(label).decide(Recorded(test))[0])
        assert by_name[name]["accuracy"] == test.correct[:, column].mean()
        assert by_name[name]["gmacs"] == pytest.approx(test.costs.whole[column] / 1e9, rel=1e-12)
        assert by_name[name]["gmacs_selector"] == 0
    assert by_name["oracle"]["accuracy"] == test.correct.any(axis=1).mean()
    choice = bounds.oracle_choice(quality_of(test), test.correct, test.costs.whole)
    assert by_name["oracle"]["gmacs"] == pytest.approx(test.costs.whole[choice].mean() / 1e9)
    assert {row["learned"] for row in rows if row["policy"] in ("correctness", "cascade")} == {True}


def test_undefined_where_the_oracle_is_no_better(noise: Splits) -> None:
    label, test = noise
    same = replace(test, probabilities=np.repeat(test.probabilities[:, :1], 4, axis=1))
    references = References.of(same, 0, play(Oracle().fit(label).reveal(same), Recorded(same)))
    row = measure(play(Default().fit(label), Recorded(same)), same, references)
    assert row["closed_gap"] is None
    assert row["closed_gap_ci"] is None
    assert row["recovered_gap"] is None


def test_a_policy_fitted_on_test_images_is_refused(noise: Splits) -> None:
    label, test = noise
    # Even where somebody renamed the split to get them past fit.
    cheating = replace(test, splits=np.full(len(test), "label"))
    policies = [calibrate(policy, cheating.rows(np.arange(40))) for policy in make("neighbours")]
    with pytest.raises(
        UserError, match="default was fitted on 40 of the images it would be scored on, such as test/4-00000"
    ):
        scored(policies, label, test)


def test_intervals_cover_and_shrink() -> None:
    stream = np.random.default_rng(0)
    widths = []
    for count in (400, 6400):
        base = stream.random(count) < 0.6
        oracle = base | (stream.random(count) < 0.5)
        right = base | (oracle & (stream.random(count) < 0.3))
        draws = stream.multinomial(count, np.full(count, 1 / count), size=1000)
        low, high = closed_gap_interval(right, base, oracle, draws) or (np.nan, np.nan)
        value = closed_gap(right, base, oracle)
        assert value is not None
        assert low < value < high
        assert low < 0.3 < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


def test_a_coin_between_two_constants(noise: Splits) -> None:
    _, test = noise
    corners = hull(test.costs.whole, test.correct.mean(axis=0))
    cost, accuracy = test.costs.whole[corners], test.correct.mean(axis=0)[corners]
    assert (np.diff(cost) > 0).all()
    assert (np.diff(accuracy) > 0).all()
    for macs in (cost[0], cost[-1], cost.mean(), 10 * cost[-1], 0):
        assert mixed(test, corners, float(macs)).mean() == pytest.approx(np.interp(macs, cost, accuracy))
    # A policy that throws that coin lies on the hull, not above it.
    stream = np.random.default_rng(0)
    columns = np.where(stream.random(len(test)) < 0.5, corners[0], corners[-1])
    coin = Played(columns, test.predicted[np.arange(len(test)), columns], test.costs.whole[columns].astype(float))
    row = measure(coin, test, References.of(test, 0, play(Oracle().fit(as_label(test)).reveal(test), Recorded(test))))
    assert row["above_hull"]["interval"][0] < 0.01


def as_label(observed: Observations) -> Observations:
    return replace(observed, splits=np.full(len(observed), "label"))


def test_hull_of_known_points() -> None:
    macs = np.array([1.0, 2, 3, 4, 5, 2.5])
    accuracy = np.array([0.1, 0.5, 0.55, 0.8, 0.7, 0.2])
    assert hull(macs, accuracy).tolist() == [0, 1, 3]


def test_a_portfolio_has_the_default_and_no_useless_configuration() -> None:
    stream = np.random.default_rng(0)
    skill = np.array([0.8, 0.82, 0.3, 0.7, 0.6, 0.75, 0.1, 0.78])
    correct = stream.random((500, 8)) < skill
    macs = np.array([50, 60, 5, 30, 20, 40, 1, 45])
    for size in (2, 4, 6):
        chosen = choose_portfolio(correct, macs, 0, size)
        assert len(chosen) == size
        assert 0 in chosen
        assert not {2, 6} & set(chosen)
    assert choose_portfolio(correct, macs, 6, 4).count(6) == 1  # a poor default stays
