from __future__ import annotations

import numpy as np
import pytest

from oracle.evaluation.paired import RESAMPLES, holm, mcnemar, paired_difference, unpaired_difference


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; never falling: the last is 0.06 too.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    assert holm([0.01, 0.01]) == [0.02, 0.02]


def test_mcnemar_by_hand() -> None:
    # Eight images differ, seven in favour: 2 (1 + 8) / 2^8.
    right = np.array([True] * 7 + [False] + [True] * 4 + [False] * 3)
    base = np.array([False] * 7 + [True] + [True] * 4 + [False] * 3)
    assert mcnemar(right, base) == pytest.approx(18 / 256)
    assert mcnemar(base, right) == pytest.approx(18 / 256)
    assert mcnemar(right, right) == 1.0


def test_paired_difference_sees_what_two_overlapping_intervals_hide() -> None:
    base = np.array([True] * 52 + [False] * 48)
    better = base.copy()
    better[52:59] = True  # 59 % against 52 %: the Wilson intervals overlap, yet every change is for the better
    found = paired_difference(better, base)
    assert found["value"] == pytest.approx(0.07)
    assert found["p"] == pytest.approx(2 / 2**7)
    assert found["interval"] is not None
    assert found["interval"][0] > 0
    back = paired_difference(base, better)
    assert (back["value"], back["p"]) == (pytest.approx(-0.07), found["p"])


def test_paired_difference_of_numbers() -> None:
    stream = np.random.default_rng(1)
    base = stream.normal(0, 10, 400)
    found = paired_difference(base + 0.1 + stream.normal(0, 0.1, 400), base)
    assert found["value"] == pytest.approx(0.1, abs=0.02)
    assert found["p"] == pytest.approx(2 / (RESAMPLES + 1))
    # The same numbers as two samples say nothing: the spread between images hides the difference.
    assert unpaired_difference(base + 0.1, base)["p"] > 0.5
    assert paired_difference(base, base) == {"value": 0.0, "interval": [0.0, 0.0], "p": 1.0}


def test_a_few_images_prove_nothing() -> None:
    assert paired_difference(np.array([2.0]), np.array([1.0])) == {"value": 1.0, "interval": None, "p": 1.0}
    assert paired_difference(np.array([2.0, 3.0]), np.array([1.0, 1.0]))["p"] == 0.5
    assert unpaired_difference(np.array([2.0, 2.0]), np.array([1.0, 1.0]))["p"] == pytest.approx(1 / 3)


def test_unpaired_difference_finds_a_shift() -> None:
    stream = np.random.default_rng(2)
    found = unpaired_difference(stream.normal(1, 1, 80), stream.normal(0, 1, 120))
    assert found["p"] < 0.001
    assert found["interval"] is not None
    assert found["interval"][0] < 1 < found["interval"][1]


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"same images, not 2 and 3"):
        paired_difference(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match=r"empty sample"):
        unpaired_difference(np.ones(0), np.ones(3))


def test_false_claims_are_as_rare_as_promised() -> None:
    """Under no difference the bootstrap's p-value is below 0.05 about one time in twenty."""
    stream = np.random.default_rng(3)
    below = sum(paired_difference(stream.normal(size=60), stream.normal(size=60))["p"] < 0.05 for _ in range(200))
    assert 2 <= below <= 22
