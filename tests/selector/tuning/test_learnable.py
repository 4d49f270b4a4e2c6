"""The search for what can be learned, where the rule is known: specialists, and configurations that are right by luck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamic import UserError
from oracle.evaluation.bounds import greedy_portfolio
from selector.shipped import SHIPPED
from selector.tuning.learnable import PROBES, Candidates, Probe, ProbeName, search_portfolio
from selector.tuning.portfolio_search import SearchSettings, rows_of, search_candidates, search_run, sentences_of

SPECIALISTS = (1, 2)
IDS = [f"c{column}" for column in range(9)]


def ruled(images: int = 1200, seed: int = 0) -> Candidates:
    """The default is right on 60 %; two specialists on 90 % of one side of a feature each; six others on 60 % at random."""
    stream = np.random.default_rng(seed)
    features = stream.normal(size=(images, 12)).astype(np.float32)
    chances = np.full((images, len(IDS)), 0.6)
    chances[:, 1] = np.where(features[:, 0] < 0, 0.9, 0.2)
    chances[:, 2] = np.where(features[:, 0] < 0, 0.2, 0.9)
    macs = np.array([100, 120, 60, 40, 50, 70, 80, 90, 110]) * 1e6
    return Candidates(features=features, correct=stream.random(chances.shape) < chances, macs=macs, charged=macs, default=0)


def settings(**changes: Any) -> SearchSettings:
    return SearchSettings(run=Path("made-up"), device="cpu", **{"size": 3} | changes)


@pytest.mark.parametrize("probe", PROBES)
def test_it_finds_specialists_where_the_union_finds_luck(probe: ProbeName) -> None:
    candidates = ruled()
    result = search_candidates(settings(probe=probe), candidates, IDS)
    assert result["portfolio"] == ["c0", *(f"c{column}" for column in SPECIALISTS)]
    assert set(greedy_portfolio(candidates.correct, candidates.macs, 3)) != {0, *SPECIALISTS}
    by_name = {row["name"]: row for row in result["rows"]}
    learned, union = by_name["portfolio by what can be learned"], by_name["portfolio by the oracle's union"]
    assert learned["accuracy"] > 0.8
    assert learned["accuracy"] >= union["accuracy"]
    assert 0.1 < result["gain"]["at_least"] < result["gain"]["value"]
    assert result["cost"]["fits"] == (4 * 4 + 2 if probe == "ridge" else 4 * 9 + 3 + 3)
    assert "at least" in sentences_of(result)[0]
    assert len(rows_of(result)) == len(result["rows"]) == 5


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_labels_promise_nothing(seed: int) -> None:
    candidates = ruled(seed=seed)
    order = np.random.default_rng(seed).permutation(len(candidates))
    result = search_candidates(settings(seed=seed), replace(candidates, correct=candidates.correct[order]), IDS)
    assert result["gain"]["at_least"] <= 0
    assert result["gain"]["value"] < 0.03
    assert "at least" not in sentences_of(result)[0]


def test_the_promise_is_estimated_on_images_that_chose_nothing() -> None:
    candidates = ruled()
    searched, promised = (_rows_of(half, candidates) for half in candidates.halves(0))
    before = search_candidates(settings(), candidates, IDS)
    turned = candidates.correct.copy()
    turned[promised] ^= True  # whoever was right there is wrong: nothing that was chosen may change, only what is promised
    after = search_candidates(settings(), replace(candidates, correct=turned), IDS)
    assert not set(searched) & set(promised)
    assert set(searched) | set(promised) == set(range(len(candidates)))
    for name in ("portfolio", "hoped"):
        assert after[name] == before[name]
    assert [row["name"] for row in after["rows"]] == [row["name"] for row in before["rows"]]
    for old, new in zip(before["rows"][:4], after["rows"][:4], strict=True):
        assert new["accuracy"] == pytest.approx(1 - old["accuracy"])
        assert new["gmacs"] == old["gmacs"]
    other = candidates.correct.copy()
    other[searched] = np.roll(other[searched], 3, axis=1)
    assert search_candidates(settings(), replace(candidates, correct=other), IDS)["portfolio"] != before["portfolio"]


def _rows_of(half: Candidates, whole: Candidates) -> np.ndarray:
    """Which rows a half has, found by their features, no two of which are alike."""
    row_of = {features.tobytes(): row for row, features in enumerate(whole.features)}
    assert len(row_of) == len(whole)
    return np.array([row_of[features.tobytes()] for features in half.features])


def test_a_limit_is_kept_on_both_halves_and_what_cannot_be_is_refused() -> None:
    candidates = ruled()
    free = search_candidates(settings(), candidates, IDS)
    held = search_candidates(settings(max_macs=0.7), candidates, IDS)
    assert 1000 * free["hoped"]["gmacs"] > 75
    assert 1000 * held["hoped"]["gmacs"] <= 70
    by_name = {row["name"]: row for row in held["rows"]}
    assert 1000 * by_name["portfolio by what can be learned"]["gmacs"] < 73  # other images: nearly
    assert by_name["portfolio by what can be learned"]["accuracy"] > 0.62
    with pytest.raises(UserError, match=r"--max-macs allows 30\.0 MMACs an image, and the cheapest candidate costs 40\.0"):
        search_candidates(settings(max_macs=0.3), candidates, IDS)
    dear = replace(candidates, charged=candidates.macs + 50e6)  # features that only the default runs anyway
    with pytest.raises(UserError, match=r"costs 90\.0 with what the features cost"):
        search_candidates(settings(max_macs=0.7), dear, IDS)


def test_exchanging_mends_what_greed_took_first() -> None:
    """A generalist helps most alone, and is superfluous beside two specialists."""
    stream = np.random.default_rng(0)
    side = stream.random(600) < 0.5
    right = np.stack([np.zeros(600, bool), stream.random(600) < 0.7, side, ~side], axis=1)
    candidates = Candidates(
        features=np.zeros((600, 1), np.float32), correct=right, macs=np.ones(4), charged=np.ones(4), default=0
    )
    scores = np.stack([np.zeros(600), np.full(600, 0.7), side, ~side], axis=1).astype(float)
    found = search_portfolio(candidates, scores, 3)
    assert found.columns == (0, 2, 3)
    assert found.accuracy == 1
    with pytest.raises(UserError, match="4 candidates are fewer than --size 5"):
        search_portfolio(candidates, scores, 5)
    assert search_portfolio(candidates, scores, 4).columns == (0, 1, 2, 3)


def test_what_is_seldom_right_is_left_out_unless_it_is_needed() -> None:
    candidates = ruled()
    seldom = candidates.correct.copy()
    seldom[:, 3:6] &= np.random.default_rng(0).random((len(seldom), 3)) < 0.3  # column 3 is the cheapest
    poor = replace(candidates, correct=seldom)
    assert poor.useful(3).tolist() == [0, 1, 2, 3, 6, 7, 8]
    assert len(poor.useful(9)) == 9
    result = search_candidates(settings(), poor, IDS)
    assert (result["candidates"], result["useful"]) == (9, 7)
    assert result["portfolio"] == ["c0", "c1", "c2"]


def test_the_probe_ignores_what_never_changes_and_is_repeatable() -> None:
    candidates = ruled(200)
    features = np.concatenate([candidates.features, np.ones((200, 3), np.float32)], axis=1)
    first, again = (Probe().held_out(replace(candidates, features=features)) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.allclose(first, Probe().held_out(candidates))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UserError, match="--size must be from 2 to 32, not 1"):
        settings(size=1)
    with pytest.raises(UserError, match="--max-macs must be positive"):
        settings(max_macs=0.0)
    with pytest.raises(UserError, match="matched is shipped with the package and is not written to"):
        search_run(SearchSettings(run=SHIPPED["matched"], device="cpu"))
