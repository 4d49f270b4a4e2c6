"""Bounds hold as often as they say, and a guarantee made on label images is kept on test images: over many splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamic import Configuration, UserError
from dynamic.network import DynamicNetwork
from selector.learning.fitting import calibrate, halves
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies.cascade import Cascade
from selector.policies.constant import Default
from selector.policies.guarantee import guaranteed, lower_bounds
from selector.policies.objectives import OperatingPoint, Terms, beats
from selector.policies.running import run_policy
from tests.selector.conftest import made_up


@pytest.mark.parametrize(
    ("count", "worse", "better"), [(60, 0.2, 0.2), (400, 0.05, 0.05), (2000, 0.06, 0.02), (2000, 0.01, 0)]
)
def test_a_mean_lies_below_its_bound_at_most_as_often_as_allowed(count: int, worse: float, better: float) -> None:
    draws, error = 600, 0.1
    chance = np.random.default_rng(count).random((draws, count))
    gains = np.where(chance < worse, -1, np.where(chance < worse + better, 1, 0))
    bounds = lower_bounds(gains, error)
    broken = (bounds > better - worse).mean()
    assert broken <= error + 2.6 * np.sqrt(error * (1 - error) / draws)
    normal = gains.mean(axis=1) - 1.2816 * gains.std(axis=1) / np.sqrt(count)
    assert np.median(normal - bounds) < 0.6 * np.median(gains.mean(axis=1) - normal) + 2 / count  # and is not far below it


def test_images_that_agree_prove_little_when_they_are_few() -> None:
    bounds = [lower_bounds(np.zeros((1, count)), 0.05)[0] for count in (10, 100, 1000, 10_000)]
    assert bounds == sorted(bounds)
    assert bounds[0] < -0.2
    assert -0.001 < bounds[-1] < 0
    assert lower_bounds(-np.ones((1, 50)), 0.05)[0] == pytest.approx(-1)


def test_of_twenty_settings_that_lose_too_much_one_passes_alone_but_not_in_sequence() -> None:
    draws, tolerance = 100, 0.02
    alone = in_sequence = 0
    for seed in range(draws):
        stream = np.random.default_rng(seed)
        base = stream.random(400) < 0.8
        right = np.where(stream.random((20, 400)) < 0.08, stream.random((20, 400)) < 0.55, base)  # two points worse
        bounds = lower_bounds(right.astype(np.int8) - base, 0.05)
        alone += bool((bounds >= -tolerance).any())
        in_sequence += bool((guaranteed(right, base) >= -tolerance).any())
    assert alone / draws > 0.15
    assert in_sequence / draws <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / draws)


@pytest.fixture(scope="module")
def population(network: DynamicNetwork, portfolio: list[Configuration]) -> Observations:
    """Images of which the hard ones are answered wrong, and with little confidence, by cheap configurations."""
    stream = np.random.default_rng(7)
    hard = stream.random(3000)
    right = hard[:, None] + 0.15 * stream.normal(size=(3000, 4)) < np.array([0.9, 0.86, 0.78, 0.65])
    return made_up(network, portfolio, right, stream.normal(size=3000), sure=True)


def test_over_200_splits_the_promise_is_broken_in_at_most_the_share_it_allows(population: Observations) -> None:
    terms, broken, promised = Terms(tolerance=0.03, confidence=0.9), 0, 0
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(len(population))
        label, test = population.rows(order[:800]), population.rows(order[800:])
        cascade = calibrate(Cascade(rungs=2, candidates=2), label, seed, terms=terms)
        default = OperatingPoint(0.0, float(label.correct[:, 0].mean()), float(label.costs.default))
        point = cascade.point("efficiency", default.accuracy, default.macs)
        assert point is not None
        if not beats(point, default, "efficiency", terms.tolerance):
            continue  # nothing is promised
        promised += 1
        found = run_policy(cascade, RecordedImages(test), point.dial).predicted == test.labels
        broken += found.mean() - test.correct[:, 0].mean() < -terms.tolerance
    assert promised > 150  # it is worth something
    assert broken / promised <= 1 - terms.confidence


def test_nothing_is_promised_on_images_that_chose_the_configurations(population: Observations, tmp_path: Path) -> None:
    label = population.rows(np.arange(600))
    half, other = halves(label.keys)
    assert half | other == set(map(str, label.keys))
    assert len(half) == len(other) == 300
    spared = np.array([key in other for key in map(str, label.keys)])
    for policy in (Default(), Cascade(rungs=2, candidates=2)):
        whole, points = calibrate(policy.fresh(), label).points_, calibrate(policy, label, chosen_on=half).points_
        assert policy.promised_on_ == 300
        for before, after in zip(whole, points, strict=True):
            assert (before.dial, before.accuracy != after.accuracy) == (after.dial, True)
            assert before.guaranteed is not None
            assert after.guaranteed is not None
        policy.save(tmp_path / policy.name)
        again = type(policy).load(tmp_path / policy.name)
        assert (again.promised_on_, again.labels_) == (300, 600)  # without reading which
        assert (again.chosen_on_, again.fitted_on_) == (half, half | other)
    assert calibrate(Default(), label, chosen_on=half).points_[0].accuracy == label.correct[spared, label.default].mean()
    with pytest.raises(UserError, match="chosen on these very label images"):
        calibrate(Default(), label, chosen_on=half | other)
