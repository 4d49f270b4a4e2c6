"""What the default dominates is neither recommended nor activated: policies made up for it, and calibrated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selector.learning.fitting import calibrate
from selector.learning.training import recommendations
from selector.observation.observations import Observations
from selector.policies import load_policy
from selector.policies.base import Policy
from selector.policies.cascade import Cascade
from selector.policies.choice import choose
from selector.policies.constant import Default
from selector.policies.objectives import OBJECTIVES, OperatingPoint, Z, beats, labels_needed, paired_error, simultaneous
from selector.scoring.sentences import sentences
from serving.inference.plans import active_plan
from tests.selector.scoring.test_sentences import result, row


def promising(kind: type[Policy], *points: OperatingPoint, labels: int = 400) -> Policy:
    policy = kind()
    policy.portfolio_, policy.fitted_on_ = ("a", "b"), frozenset(map(str, range(labels)))
    policy.points_ = points
    return policy


DEFAULT = OperatingPoint(0.0, 0.42, 148e6, 0.002)


@pytest.mark.parametrize(
    ("point", "helped"),
    [
        (OperatingPoint(0.5, 0.395, 157e6), ()),  # less accurate and dearer: the cascade that was activated
        (OperatingPoint(0.5, 0.42, 149.5e6), ()),  # "least cost" at 101 % of the default's
        (OperatingPoint(0.5, 0.418, 120e6), ("efficiency",)),
        (OperatingPoint(0.5, 0.45, 157e6), ("accuracy",)),
        (OperatingPoint(0.5, 0.45, 140e6), ("accuracy", "default_cost", "efficiency")),
        (OperatingPoint(0.5, 0.45, 148e6, 0.02), ()),  # a gain within noise
        (OperatingPoint(0.5, 0.45, 148e6, 0.01), ("accuracy", "default_cost")),
        (OperatingPoint(0.5, 0.42, 120e6, 0.02), ()),  # four points of accuracy may be lost
        (OperatingPoint(0.5, 0.42, 120e6, 0.01), ("accuracy", "default_cost", "efficiency")),
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
    lucky, sound = OperatingPoint(0.1, 0.50, 300e6, 0.05), OperatingPoint(0.2, 0.46, 200e6, 0.01)
    policies = [promising(Default, DEFAULT), promising(Cascade, lucky, sound)]
    choice = choose(policies, "accuracy")
    assert choice is not None
    assert (choice.policy, choice.point) == ("cascade", sound)


def test_it_says_how_many_labels_it_would_take() -> None:
    choice = choose([promising(Default, DEFAULT), promising(Cascade, OperatingPoint(0.5, 0.44, 140e6, 0.03))], "efficiency")
    assert choice is not None
    assert choice.needed == labels_needed(choice.nearest[1], DEFAULT, "efficiency", 400)  # type: ignore[index]
    assert choice.needed == 865  # (1.96 * 0.03 / (0.02 + 0.02))² * 400
    assert "within noise (±5.9 points), about 865 would tell" in choice.sentence


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
        "For the default's accuracy, less half a point, at least cost: default: no policy helps here"
    )
    assert "cascade, is expected to reach 68.0% at 52.0 MMACs (104% of the default's)" in dominated
    unclear = sentences(result(row("cascade/efficiency", **expecting(0.70, 0.04, error=0.02))))[1]
    assert "default: no policy helps here" in unclear
    assert "would tell" in unclear
    assert "cascade, chosen on the label split" in sentences(result(row("cascade/efficiency", **expecting(0.70, 0.04))))[1]


def test_calibration_notes_the_noise_and_files_keep_it(noise: tuple[Observations, Observations], tmp_path: Path) -> None:
    label = noise[0]
    policies = [calibrate(Default(), label), calibrate(Cascade(rungs=2, candidates=3), label)]
    policies[1].save(tmp_path)
    assert load_policy(tmp_path).points_ == policies[1].points_
    errors = [point.error for point in policies[1].points_]
    assert all(0 < error < 0.05 for error in errors if error is not None)
    assert None not in errors
    # Which configuration is right cannot be told: nothing may be recommended for its accuracy.
    choice = choose(policies, "accuracy")
    assert choice is not None
    assert not choice.helps


def test_of_twenty_settings_that_gain_nothing_one_passes_alone_but_not_among_all() -> None:
    draws, alone, together = 200, 0, 0
    for seed in range(draws):
        stream = np.random.default_rng(seed)
        base = stream.random(250) < 0.8
        won, lost = ~base & (stream.random((20, 250)) < 0.25), base & (stream.random((20, 250)) < 0.0625)  # 5 % each
        settings, default = (base | won) & ~lost, OperatingPoint(0.0, float(base.mean()), 2e6)
        wider = simultaneous(settings, base, draws=500) / Z
        noise = [(float(right.mean()), paired_error(right, base)) for right in settings]
        alone += any(beats(OperatingPoint(0.0, a, 3e6, error), default, "accuracy") for a, error in noise)
        together += any(beats(OperatingPoint(0.0, a, 3e6, wider * error), default, "accuracy") for a, error in noise)
    assert alone / draws > 0.2
    assert together / draws < 0.05
