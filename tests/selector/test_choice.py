"""What the default dominates is neither recommended nor activated: policies made up for it, and calibrated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dynamic.errors import UserError
from dynamic.integrity import read_record, write_record
from selector.learning.fitting import calibrate
from selector.learning.training import recommendations
from selector.observation.observations import Observations
from selector.policies import load_policy
from selector.policies.base import Policy
from selector.policies.cascade import Cascade
from selector.policies.choice import choose
from selector.policies.constant import Default
from selector.policies.objectives import OBJECTIVES, TERMS, OperatingPoint, Terms, labels_needed
from selector.scoring.sentences import sentences
from serving.inference.plans import active_plan
from tests.selector.scoring.test_sentences import result, row


def promising(kind: type[Policy], *points: OperatingPoint, labels: int = 400) -> Policy:
    policy = kind()
    policy.portfolio_, policy.fitted_on_ = ("a", "b"), frozenset(map(str, range(labels)))
    policy.points_, policy.terms_ = points, TERMS
    return policy


DEFAULT = OperatingPoint(0.0, 0.42, 148e6, 0.0)


@pytest.mark.parametrize(
    ("point", "helped"),
    [
        (OperatingPoint(0.5, 0.395, 157e6), ()),  # less accurate and dearer: the cascade that was activated
        (OperatingPoint(0.5, 0.42, 149.5e6), ()),  # "least cost" at 101 % of the default's
        (OperatingPoint(0.5, 0.418, 120e6), ("efficiency",)),
        (OperatingPoint(0.5, 0.45, 157e6), ("accuracy",)),
        (OperatingPoint(0.5, 0.45, 140e6), ("accuracy", "default_cost", "efficiency")),
        (OperatingPoint(0.5, 0.45, 148e6, -0.01), ()),  # a gain within noise
        (OperatingPoint(0.5, 0.45, 148e6, 0.01), ("accuracy", "default_cost")),
        (OperatingPoint(0.5, 0.42, 120e6, -0.04), ()),  # four points of accuracy may be lost
        (OperatingPoint(0.5, 0.42, 120e6, -0.01), ("accuracy", "default_cost", "efficiency")),
    ],
)
def test_the_default_stays_where_nothing_beats_it(point: OperatingPoint, helped: tuple[str, ...]) -> None:
    policies = {p.name: p for p in (promising(Default, DEFAULT), promising(Cascade, point))}
    for objective in OBJECTIVES:
        plan, why = active_plan(policies, None, objective)
        assert plan.policy == ("cascade" if objective in helped else "default")
        assert plan.dial == (0.5 if objective in helped else None)
        assert why.startswith(
            "cascade: expected" if objective in helped else "default: no policy helps here; the nearest, cas"
        )
        assert f"{point.accuracy:.1%} at {point.macs / 1e6:.1f} MMACs" in why
        assert "42.0% at 148.0" in why
        # The settings may force what they like.
        assert active_plan(policies, "cascade", objective)[0].policy == "cascade"
    assert sum("no policy helps" in line for line in recommendations(list(policies.values()))) == 3 - len(helped)


def test_a_dial_that_beats_the_default_goes_before_one_that_looks_better_by_luck() -> None:
    lucky, sound = OperatingPoint(0.1, 0.50, 300e6, -0.02), OperatingPoint(0.2, 0.46, 200e6, 0.02)
    policies = [promising(Default, DEFAULT), promising(Cascade, lucky, sound)]
    choice = choose(policies, "accuracy")
    assert choice is not None
    assert (choice.policy, choice.point) == ("cascade", sound)


def test_it_says_how_many_labels_it_would_take() -> None:
    choice = choose([promising(Default, DEFAULT), promising(Cascade, OperatingPoint(0.5, 0.44, 140e6, -0.04))], "efficiency")
    assert choice is not None
    assert choice.needed == labels_needed(choice.nearest[1], DEFAULT, "efficiency", 400)  # type: ignore[index]
    assert choice.needed == 1600  # ((0.02 + 0.04) / (0.02 + 0.01))² * 400
    assert "but these guarantee only at most 4.0 points below the default with 95% confidence" in choice.sentence
    assert choice.sentence.endswith("about 1600 would tell")
    equal = OperatingPoint(0.5, DEFAULT.accuracy + 1e-5, DEFAULT.macs, -0.04)  # as good as the default, so no number would
    choice = choose([promising(Default, DEFAULT), promising(Cascade, equal)], "accuracy")
    assert choice is not None
    assert choice.needed is not None
    assert choice.needed > 1_000_000
    assert choice.sentence.endswith("confidence; not even a million would tell")


def test_without_labels_or_policies_the_default_stays() -> None:
    assert active_plan({"default": promising(Default)}, None, "efficiency") == active_plan(
        {"default": promising(Default), "cascade": promising(Cascade)}, None, "efficiency"
    )
    assert active_plan({"default": promising(Default, DEFAULT)}, None, "efficiency")[1].endswith("no learned policy")


def test_the_benchmark_recommends_what_is_activated() -> None:
    def expecting(accuracy: float, gmacs: float, **others: float) -> dict[str, Any]:
        return {"expected": {"accuracy": accuracy, "gmacs": gmacs} | others}

    dominated = sentences(result(row("cascade/efficiency", **expecting(0.68, 0.052))))[1]
    assert dominated.startswith(
        "For the default's accuracy, within the tolerance, at least cost: default: no policy helps here"
    )
    assert "cascade, is expected to reach 68.0% at 52.0 MMACs (104% of the default's)" in dominated
    unclear = row("cascade/efficiency", **expecting(0.70, 0.04))
    unclear["expected"]["guaranteed"] = -0.05
    unclear_result = result(unclear)
    unclear_result["run"]["terms"] = {"tolerance": 0.01, "confidence": 0.95}
    said = sentences(unclear_result)[1]
    assert "default: no policy helps here" in said
    assert "would tell" in said
    assert "cascade, chosen on the label split" in sentences(result(row("cascade/efficiency", **expecting(0.70, 0.04))))[1]


def test_calibration_notes_what_is_guaranteed_and_files_keep_it(
    noise: tuple[Observations, Observations], tmp_path: Path
) -> None:
    label = noise[0]
    terms = Terms(tolerance=0.2, confidence=0.9)
    policies = [calibrate(policy, label, terms=terms) for policy in (Default(), Cascade(rungs=2, candidates=3))]
    policies[1].save(tmp_path)
    loaded = load_policy(tmp_path)
    assert (loaded.points_, loaded.terms_) == (policies[1].points_, terms)
    least = [cast(float, point.guaranteed) for point in loaded.points_]
    assert all(-0.3 < bound < 0 for bound in least)
    assert least == sorted(least, reverse=True)  # no setting promises more than those before it
    strict = [calibrate(policy, label) for policy in (Default(), Cascade(rungs=2, candidates=3))]
    bounds = [cast(float, point.guaranteed) for point in strict[1].points_]
    assert all(bound < other for bound, other in zip(bounds, least, strict=True))  # 95 %, not 90
    # Which configuration is right cannot be told: nothing may be recommended for its accuracy.
    choice = choose(strict, "accuracy")
    assert choice is not None
    assert not choice.helps


def test_points_of_an_earlier_version_count_as_they_are(tmp_path: Path, noise: tuple[Observations, Observations]) -> None:
    calibrate(Default(), noise[0]).save(tmp_path)
    facts = dict(read_record(tmp_path / "policy.json"))
    facts.pop("terms")
    facts["points"] = [{"dial": 0.0, "accuracy": 0.7, "macs": 1e6, "error": 0.01}]
    write_record(tmp_path / "policy.json", facts)
    loaded = load_policy(tmp_path)
    assert (loaded.points_, loaded.terms_) == ((OperatingPoint(0.0, 0.7, 1e6),), None)


@pytest.mark.parametrize("wrong", [{"tolerance": -0.1}, {"tolerance": 1.0}, {"confidence": 0.4}, {"confidence": 1.0}])
def test_terms_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} is a share"):
        Terms(**wrong)
