from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynamic import UserError
from oracle.evaluation import bounds
from oracle.evaluation.bounds import hull
from selector.learning.fitting import calibrate
from selector.learning.portfolios import choose_portfolio
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies import make
from selector.policies.constant import Cheapest, Default, Oracle, SingleBest
from selector.policies.running import PolicyRun, PolicyRuns, run_policy
from selector.scoring.metrics import References, closed_gap, closed_gap_interval, measure
from selector.scoring.mixture import mixture_accuracy
from selector.scoring.ranking import rank
from selector.scoring.resampling import RESAMPLES, draw_resamples, resampled_means

Splits = tuple[Observations, Observations]


def as_label(observed: Observations) -> Observations:
    return replace(observed, splits=np.full(len(observed), "label"))


def references_of(observed: Observations) -> References:
    return References.of(
        observed, 0, run_policy(Oracle().fit(as_label(observed)).reveal(observed), RecordedImages(observed))
    )


def outcome_of(observed: Observations, columns: np.ndarray) -> PolicyRun:
    """What comes of running a given column on each image."""
    rows = np.arange(len(observed))
    return PolicyRun(columns, observed.predicted[rows, columns], observed.costs.whole[columns].astype(float))


def test_oracle_closes_all_and_single_best_nothing(noise: Splits) -> None:
    label, test = noise
    policies = [calibrate(policy, label) for policy in make("correctness,cascade")]
    rows = rank(policies, label, PolicyRuns(test)).rows
    by_name = {row["name"]: row for row in rows}
    assert list(by_name)[:6] == ["default", "single_best", "cheapest", "most_preferred", "random", "oracle"]
    assert by_name["oracle"]["closed_gap"] == 1.0
    assert by_name["oracle"]["recovered_gap"] == 1.0
    assert by_name["single_best"]["closed_gap"] == 0.0
    assert by_name["default"]["recovered_gap"] == 0.0
    # The oracle regrets nothing but the probability it gives up on images that nothing gets right.
    hopeless = ~test.correct.any(axis=1)
    quality = test.quality[hopeless]
    given_up = (quality.max(axis=1) - quality[:, test.costs.whole.argmin()]).sum() / len(test)
    assert by_name["oracle"]["regret"] == pytest.approx(given_up, abs=1e-6)
    # Constants equal their column; the oracle its bound.
    for name, policy in (("default", Default()), ("cheapest", Cheapest()), ("single_best", SingleBest())):
        column = int(policy.fit(label).decide(RecordedImages(test))[0])
        assert by_name[name]["accuracy"] == test.correct[:, column].mean()
        assert by_name[name]["gmacs"] == pytest.approx(test.costs.whole[column] / 1e9, rel=1e-12)
        assert by_name[name]["gmacs_selector"] == 0
    assert by_name["oracle"]["accuracy"] == test.correct.any(axis=1).mean()
    choice = bounds.oracle_choice(test.quality, test.correct, test.costs.whole)
    assert by_name["oracle"]["gmacs"] == pytest.approx(test.costs.whole[choice].mean() / 1e9)
    assert {row["learned"] for row in rows if row["policy"] in ("correctness", "cascade")} == {True}


def test_undefined_where_the_oracle_is_no_better(noise: Splits) -> None:
    label, test = noise
    same = replace(
        test, **{name: np.repeat(getattr(test, name)[:, :1], 4, axis=1) for name in ("probabilities", "predicted", "p_true")}
    )
    row = measure(run_policy(Default().fit(label), RecordedImages(same)), same, references_of(same))
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
        rank(policies, label, PolicyRuns(test))


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


def test_statistics_of_a_row_equal_a_slow_reference(noise: Splits) -> None:
    """Resample by resample, image by image: what the matrix products must come to."""
    test = noise[1].rows(np.arange(300))
    references = references_of(test)
    stream = np.random.default_rng(5)
    outcome = outcome_of(test, stream.integers(0, 4, size=len(test)))
    outcome = replace(outcome, macs=outcome.macs + stream.uniform(0, 2e6, size=len(test)))  # the policy's own
    row = measure(outcome, test, references)
    correct, macs, right = test.correct, test.costs.whole, outcome.predicted == test.labels
    gaps, recovered, differences, above = [], [], [], []
    for draw in references.draws:
        images = np.repeat(np.arange(len(test)), draw)
        assert len(images) == len(test)
        accuracy = correct[images].mean(axis=0)
        corners = hull(macs, accuracy)  # drawn anew
        mixture = np.interp(outcome.macs[images].mean(), macs[corners], accuracy[corners])
        mine, base, best = right[images].mean(), accuracy[0], correct[images].any(axis=1).mean()
        gaps.append((mine - references.single_best[images].mean()) / (best - references.single_best[images].mean()))
        recovered.append((mine - base) / (best - base))
        differences.append(mine - base)
        above.append(mine - mixture)
    for found, resampled in (
        (row["closed_gap_ci"], gaps),
        (row["recovered_gap_ci"], recovered),
        (row["versus_default"]["interval"], differences),
        (row["above_hull"]["interval"], above),
    ):
        assert found == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=1e-9)
    corners = hull(macs, correct.mean(axis=0))
    reached = np.interp(outcome.macs.mean(), macs[corners], correct.mean(axis=0)[corners])
    assert row["above_hull"]["value"] == pytest.approx(right.mean() - reached, abs=1e-12)


def test_mixtures_reach_the_hull_and_no_more() -> None:
    stream = np.random.default_rng(0)
    for size in (1, 2, 5, 32):
        for macs in (stream.permutation(size) + 1, np.sort(stream.integers(1, 9, size=size))):  # ties too
            accuracy = stream.random((50, size)).round(2)
            budget = np.concatenate([stream.uniform(0, size + 10, size=40), macs[stream.integers(size, size=10)]])
            found = mixture_accuracy(macs, accuracy, budget)
            for one, at, reached in zip(accuracy, budget, found, strict=True):
                corners = hull(macs, one)
                assert reached == pytest.approx(np.interp(at, macs[corners], one[corners]))


def test_the_hull_is_drawn_anew_in_every_resample() -> None:
    """Of configurations equally good in truth the best of a sample is so by luck, and another one in another sample.

    With the corners of the whole sample kept, a resample's mixture would be no better than the corner; drawn anew it is.
    """
    stream = np.random.default_rng(0)
    correct = stream.random((500, 8)) < 0.7
    macs = np.full(8, 10.0)
    accuracy = resampled_means(correct, draw_resamples(len(correct)))
    anew = mixture_accuracy(macs, accuracy, np.full(RESAMPLES, 10.0))
    kept = accuracy[:, correct.mean(axis=0).argmax()]
    assert (anew >= kept).all()
    assert (anew > kept + 1e-9).mean() > 0.2
    assert anew == pytest.approx(accuracy.max(axis=1))


def test_a_policy_that_draws_lots_is_not_above_the_mixture(noise: Splits) -> None:
    _, test = noise
    corners = hull(test.costs.whole, test.correct.mean(axis=0))
    stream = np.random.default_rng(0)
    columns = np.where(stream.random(len(test)) < 0.5, corners[0], corners[-1])
    row = measure(outcome_of(test, columns), test, references_of(test))
    assert row["above_hull"]["interval"][0] < 0.01
    # A corner of the hull is no better than itself.
    corner = measure(outcome_of(test, np.full(len(test), corners[-1])), test, references_of(test))
    assert corner["above_hull"]["value"] == 0
    assert corner["above_hull"]["interval"][1] <= 0


def test_resampled_means_in_blocks() -> None:
    draws = draw_resamples(3000, seed=1)  # more than one block
    values = np.random.default_rng(0).random((3000, 2))
    assert draws.dtype == np.uint16
    assert draws.shape == (RESAMPLES, 3000)
    assert (draws.sum(axis=1) == 3000).all()
    assert resampled_means(values, draws) == pytest.approx(draws.astype(float) @ values / 3000, abs=1e-12)
    assert resampled_means(values[:, 0], draws).shape == (RESAMPLES,)


def test_p_values_are_adjusted_over_the_learned_rows(noise: Splits, ruled: Splits) -> None:
    label, test = ruled
    policies = [calibrate(policy, label) for policy in make("correctness,neighbours")]
    rows = rank(policies, label, PolicyRuns(test)).rows
    learned = [row for row in rows if row["learned"]]
    assert len(learned) == 6
    for comparison in ("versus_default", "versus_single_best"):
        assert all(row[comparison]["p_holm"] is None for row in rows if not row["learned"])
        smallest = min(learned, key=lambda row: row[comparison]["p"])
        assert smallest[comparison]["p"] > 0
        assert smallest[comparison]["p_holm"] == pytest.approx(6 * smallest[comparison]["p"])
        assert all(row[comparison]["p_holm"] >= row[comparison]["p"] for row in learned)


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
