"""Stacking against a loop over images that asks LightGBM itself."""

from __future__ import annotations

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest

from dynamic import UserError
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies.running import run_policy, run_recorded
from selector.policies.stacking import NAMED, Stacking, candidate_features

Splits = tuple[Observations, Observations]


@pytest.fixture(scope="module")
def fitted(ruled: Splits) -> tuple[Stacking, Observations]:
    """And test images of which some answers are not finite."""
    answers, predicted = np.array(ruled[1].probabilities), ruled[1].predicted.copy()
    for column in range(4):
        answers[column::9, column], predicted[column::9, column] = 0, -1
    answers[::50], predicted[::50] = 0, -1
    return Stacking(rounds=40).fit(ruled[0]), replace(ruled[1], probabilities=answers, predicted=predicted)


def features_of(answers: np.ndarray, place: int, beside: np.ndarray) -> list[float]:
    """Of the class that configuration ``place`` answers, one number after the other."""
    mine = int(answers[place].argmax())
    logs = [np.log(np.clip(each, 1e-6, 1)) for each in answers]
    says = [float(each.argmax() == mine) for each in answers]
    ordered = [np.sort(each) for each in answers]
    return [
        *(log[mine] for log in logs),
        *says,
        sum(says),
        *(log.max() for log in logs),
        *(each[-1] - each[-2] for each in ordered),
        *(-(each * log).sum() for each, log in zip(answers, logs, strict=True)),
        *(float(k == mine) for k in range(answers.shape[1]) if answers.shape[1] <= NAMED),
        *beside,
    ]


def climbed(policy: Stacking, images: Observations, row: int, dial: float) -> tuple[int, float]:
    """What is chosen of one image and what it costs, the plain way."""
    answers: list[np.ndarray] = []
    costs, own = images.costs, 0.0
    chosen = policy.order_[0]
    for column, forest in zip(policy.order_, policy.forests_, strict=True):
        answers.append(images.probabilities[row, column])
        features = [features_of(np.array(answers), place, images.stem[row]) for place in range(len(answers))]
        likely = lgb.Booster(model_str=forest.texts[0]).predict(np.array(features, np.float32))
        likely = np.where([each.any() for each in answers], likely, 0)
        own += forest.macs * len(answers)
        best = [place for place in range(len(answers)) if likely[place] == likely.max()]
        chosen = policy.order_[max(best, key=lambda place: answers[place].max())]
        if likely.max() >= dial:
            break
    ran = policy.order_[: len(answers)]
    return chosen, float((costs.paths[ran].any(axis=0) | costs.stem) @ costs.macs + own)


@pytest.mark.parametrize("dial", [1.0, 0.9, 0.5, 0.3])
def test_choices_and_charges_are_those_of_a_plain_loop(fitted: tuple[Stacking, Observations], dial: float) -> None:
    policy, images = fitted
    part = images.rows(np.arange(120))
    found = run_policy(policy, RecordedImages(part), dial)
    expected = [climbed(policy, part, row, dial) for row in range(120)]
    assert found.columns.tolist() == [column for column, _ in expected]
    assert np.allclose(found.macs, [macs for _, macs in expected])
    assert len(set(found.columns)) > 1


def test_what_is_judged_once_for_all_dials_is_what_each_dial_judges(fitted: tuple[Stacking, Observations]) -> None:
    policy, images = fitted
    costs = []
    for dial, found in zip(policy.dials, run_recorded(policy, images, policy.dials), strict=True):
        alone = run_policy(policy, RecordedImages(images), dial)
        assert np.array_equal(found.columns, alone.columns)
        assert np.array_equal(found.predicted, alone.predicted)
        assert np.array_equal(found.macs, alone.macs)
        costs.append(alone.macs.mean())
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


def test_an_answer_that_is_not_finite_is_chosen_only_where_there_is_no_other(
    fitted: tuple[Stacking, Observations],
) -> None:
    policy, images = fitted
    columns = policy.decide(RecordedImages(images), 1.0)
    finite = np.asarray(images.probabilities).any(axis=2)
    assert finite[np.arange(len(images)), columns].tolist() == finite.any(axis=1).tolist()
    assert not finite.all(axis=1).all()


def test_configurations_come_in_the_order_of_what_each_adds(ruled: Splits) -> None:
    label = ruled[0].rows(np.arange(8))
    rows = ([1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1])
    right = np.array(rows, dtype=bool)
    label = replace(label, predicted=np.where(right, label.labels[:, None], -1))
    # The first two are right on four images each: the cheaper comes first. Then the last adds most.
    cheap, dear = sorted((0, 1), key=lambda column: label.costs.whole[column])
    assert Stacking(rounds=1).fit(label).order_ == [cheap, 3, dear, 2]
    assert Stacking(rounds=1, most=2).fit(label).order_ == [cheap, 3]


def test_at_least_one_configuration_is_run() -> None:
    with pytest.raises(UserError, match="stacking runs at least one configuration: most must not be 0"):
        Stacking(most=0)


def test_many_classes_are_no_features_of_their_own() -> None:
    beside = np.zeros((2, 3))
    few, many = (candidate_features(np.full((2, 2, count), 1 / count), beside).shape[2] for count in (NAMED, NAMED + 1))
    assert (few, many) == (many + NAMED, 2 + 2 + 1 + 3 * 2 + 3)
