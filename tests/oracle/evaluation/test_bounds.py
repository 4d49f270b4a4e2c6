"""Every bound against brute force, written out per image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest

from oracle.evaluation import bounds


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(predicted, p_true, labels, macs) with many ties; a wrong prediction leaves the true class at most 1/2."""
    images, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    predicted = draw(hnp.arrays(np.int32, (images, columns), elements=st.integers(0, 3)))
    labels = draw(hnp.arrays(np.int64, images, elements=st.integers(0, 3)))
    p_true = draw(hnp.arrays(np.float32, (images, columns), elements=st.sampled_from([0.0, 0.25, 0.5])))
    macs = draw(hnp.arrays(np.int64, columns, elements=st.integers(1, 3)))
    return predicted, p_true, labels, macs


@given(outcomes())
def test_quality_is_equation_1(data: tuple[np.ndarray, ...]) -> None:
    predicted, p_true, labels, _ = data
    qualities = bounds.quality(predicted, p_true, labels)
    for i, j in np.ndindex(predicted.shape):
        assert qualities[i, j] == p_true[i, j] + (1 if predicted[i, j] == labels[i] else 0)


@given(outcomes())
def test_cases(data: tuple[np.ndarray, ...]) -> None:
    predicted, p_true, labels, _ = data
    correct = predicted == labels[:, None]
    reached = bounds.cases(bounds.quality(predicted, p_true, labels), correct)
    for i in range(len(labels)):
        ordered = sorted((p_true[i, j] + correct[i, j], correct[i, j]) for j in range(correct.shape[1]))
        assert reached.worst[i] == ordered[0][1] == correct[i].all()
        assert reached.best[i] == ordered[-1][1] == correct[i].any()
        assert reached.median[i] == ordered[(len(ordered) - 1) // 2][1]


@given(outcomes())
def test_preferred_has_the_highest_quality_then_fewest_macs_then_lowest_id(data: tuple[np.ndarray, ...]) -> None:
    predicted, p_true, labels, macs = data
    correct = predicted == labels[:, None]
    qualities = bounds.quality(predicted, p_true, labels)
    preferred = bounds.preferred(qualities, macs)
    choice = bounds.oracle_choice(qualities, correct, macs)
    cheapest = bounds.cheapest_correct(correct, macs)
    columns = range(len(macs))
    for i in range(len(labels)):
        assert preferred[i] == min(columns, key=lambda j: (-qualities[i, j], macs[j], j))
        right = [j for j in columns if correct[i, j]]
        assert cheapest[i] == (min(right, key=lambda j: (macs[j], j)) if right else -1)
        assert choice[i] == (preferred[i] if right else min(columns, key=lambda j: (macs[j], j)))


@given(outcomes())
def test_single_best(data: tuple[np.ndarray, ...]) -> None:
    predicted, _, labels, macs = data
    correct = predicted == labels[:, None]
    expected = min(range(len(macs)), key=lambda j: (-int(correct[:, j].sum()), macs[j], j))
    assert bounds.single_best(correct, macs) == expected


@given(outcomes(), st.integers(1, 6))
def test_portfolio_is_greedy(data: tuple[np.ndarray, ...], size: int) -> None:
    predicted, _, labels, macs = data
    correct = predicted == labels[:, None]
    chosen = bounds.greedy_portfolio(correct, macs, size)
    covered = np.zeros(len(labels), bool)
    for step in itertools.count():
        gains = {j: int((correct[:, j] & ~covered).sum()) for j in range(len(macs))}
        best = min(gains, key=lambda j: (-gains[j], macs[j], j))
        if step == min(size, len(macs)) or (gains[best] == 0 and step):
            break
        assert chosen[step] == best
        covered |= correct[:, best]
        assert bounds.portfolio_curve(correct, chosen)[step] == covered.mean()
    assert len(chosen) == step


@given(outcomes())
def test_unique_predictions(data: tuple[np.ndarray, ...]) -> None:
    predicted = data[0]
    assert bounds.unique_predictions(predicted).tolist() == [len(set(row)) for row in predicted.tolist()]


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (8_935, 10_000)])
def test_interval_is_scipy_s(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert bounds.interval(np.arange(count) < right) == pytest.approx((expected.low, expected.high), abs=1e-14)


def test_interval_is_wilsons() -> None:
    low, high = bounds.interval(np.array([True] * 8 + [False] * 2))
    z, p, n = 1.959963985, 0.8, 10
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert np.allclose([low, high], [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)])
