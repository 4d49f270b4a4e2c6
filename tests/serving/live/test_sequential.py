from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from serving.live.sequential import SequentialTest, _log_likelihood, _nearest

SHARES = np.array([0.35, 0.25, 0.2, 0.1, 0.07, 0.03])


def first_alarm(stream: np.random.Generator, live: np.ndarray, *, images: int, step: int = 50) -> int | None:
    test = SequentialTest(stream.multinomial(5000, SHARES), alpha=0.05)
    for seen in range(step, images + 1, step):
        if test.add(stream.multinomial(step, live)):
            return seen
    return None


def test_its_level_holds_however_often_one_looks() -> None:
    """Fixed-sample tests looked at 100 times would raise dozens of false alarms here."""
    stream = np.random.default_rng(0)
    alarms = [first_alarm(stream, SHARES, images=10_000, step=100) for _ in range(40)]
    assert sum(alarm is not None for alarm in alarms) <= 5, "5 % expected at most: more than five of forty has p < 0.02"


def test_what_differs_is_found_within_some_hundred_images() -> None:
    stream = np.random.default_rng(0)
    other = np.array([0.2, 0.2, 0.2, 0.2, 0.12, 0.08])
    alarms = [first_alarm(stream, other, images=2000) for _ in range(10)]
    assert all(alarm is not None and alarm <= 800 for alarm in alarms), alarms


def test_what_changes_late_is_found_and_what_passes_is_forgotten() -> None:
    test, stream, other = SequentialTest((5000 * SHARES).round(), alpha=0.05), np.random.default_rng(0), SHARES[::-1]
    assert not any(test.add(stream.multinomial(100, SHARES)) for _ in range(200))
    said = [test.add(stream.multinomial(100, other)) for _ in range(25)]
    assert said[-1]
    assert said.index(True) <= 21, "in the window after this one at the latest"
    said = [test.add(stream.multinomial(100, SHARES)) for _ in range(60)]
    assert not said[-1], "a whole window without evidence"


def test_few_expected_images_leave_more_possible() -> None:
    live = [130, 90, 80, 50, 30, 20]
    evidence = []
    for count in (100, 1000, 100_000):
        test = SequentialTest((count * SHARES).round(), alpha=0.05)
        test.add(live)
        evidence.append(test.evidence())
    assert evidence == sorted(evidence)


def test_the_nearest_distribution_is_the_constrained_optimum() -> None:
    """Against scipy's solver, slow and general."""
    live, expected, slack = np.array([10.0, 60, 30]), np.array([500.0, 300, 200]), 15.0

    def cost(logits: np.ndarray) -> float:
        shares = np.exp(logits) / np.exp(logits).sum()
        return -_log_likelihood(live, shares)

    def room(logits: np.ndarray) -> float:
        shares = np.exp(logits) / np.exp(logits).sum()
        return slack - 2 * (_log_likelihood(expected, expected / 1000) - _log_likelihood(expected, shares))

    slow = minimize(cost, np.log(expected), constraints={"type": "ineq", "fun": room})
    assert -_log_likelihood(live, _nearest(live, expected, slack)) == pytest.approx(slow.fun, rel=1e-5)


@pytest.mark.parametrize(("expected", "alpha"), [([], 0.05), ([0, 0], 0.05), ([10, 10], 0.0)])
def test_what_cannot_be_tested_is_refused(expected: list[int], alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        SequentialTest(expected, alpha=alpha)
