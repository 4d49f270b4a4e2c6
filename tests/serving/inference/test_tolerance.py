"""SERVING_TOLERANCE on the shipped policies: the cheapest setting that surely keeps to it, or the end of the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from dynamic.errors import UserError
from selector.policies import load_policy
from selector.policies.base import Policy
from selector.policies.objectives import SAVING
from selector.shipped import SHIPPED
from serving.inference.plans import Plan
from serving.inference.served_run import active_of
from serving.settings import ServingSettings
from serving.startup import check_before_start


def policies() -> dict[str, Policy]:
    folders = (SHIPPED["matched"] / "policies").iterdir()
    return {path.name: load_policy(path) for path in folders if path.is_dir()}


def settings(**changes: Any) -> ServingSettings:
    return ServingSettings(network="matched", device="cpu", **changes)


@pytest.mark.parametrize("tolerance", [0.02, 0.1])
def test_the_cheapest_setting_whose_stored_guarantee_holds_is_active(tolerance: float) -> None:
    found = policies()
    plan, why = active_of(settings(tolerance=tolerance), found)
    chosen = next(point for point in found[plan.policy].points_ if point.dial == plan.dial)
    assert chosen.guaranteed is not None
    assert chosen.guaranteed >= -tolerance
    assert plan.policy in why
    default = found["default"].points_[0]
    kept = [
        point.macs
        for policy in found.values()
        if policy.learned
        for point in policy.points_
        if point.guaranteed is not None and point.guaranteed >= -tolerance and point.macs <= (1 - SAVING) * default.macs
    ]
    assert chosen.macs == min(kept)


def test_more_tolerance_is_cheaper_and_none_is_what_they_were_trained_for() -> None:
    def macs(plan: Plan) -> float:
        return next(point.macs for point in policies()[plan.policy].points_ if point.dial == plan.dial)

    wide, narrow = (macs(active_of(settings(tolerance=t), policies())[0]) for t in (0.1, 0.02))
    assert wide < narrow
    found = policies()
    trained = found["cascade"].terms_
    assert trained is not None
    assert active_of(settings(tolerance=trained.tolerance), policies()) == active_of(settings(), found)
    assert found["cascade"].terms_ == trained


def test_what_nothing_keeps_to_ends_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = policies()
    for policy in found.values():
        if policy.learned:
            policy.points_ = tuple(replace(point, guaranteed=-0.05) for point in policy.points_)
    monkeypatch.setattr("serving.startup.load_policy", lambda path: found[path.name])
    with pytest.raises(UserError, match=r"SERVING_TOLERANCE=0.01 with 95% confidence: no setting .* is guaranteed") as ended:
        check_before_start(settings(tolerance=0.01))
    assert "\n" not in str(ended.value)
    with pytest.raises(UserError, match=r"of cascade at most 5\.0 points below the default is guaranteed: allow more"):
        active_of(settings(tolerance=0.01, policy="cascade"), found)
    assert active_of(settings(tolerance=0.01, policy="default"), found)[0].policy == "default"


def test_a_network_by_name_has_nothing_that_could_keep_to_it() -> None:
    with pytest.raises(
        UserError, match=r"SERVING_TOLERANCE=0\.02 needs a run with learned policies.*resnet50-slim"
    ) as ended:
        check_before_start(ServingSettings(network="resnet50-slim", device="cpu", tolerance=0.02))
    assert "\n" not in str(ended.value)


def test_without_stored_guarantees_nothing_is_promised() -> None:
    found = policies()
    for policy in found.values():
        policy.terms_, policy.points_ = None, tuple(replace(point, guaranteed=None) for point in policy.points_)
    with pytest.raises(UserError, match=r"nothing is guaranteed of the policies that are served; run selector\.train"):
        active_of(settings(tolerance=0.02), found)


def test_it_goes_with_efficiency_and_is_a_share() -> None:
    with pytest.raises(ValidationError, match=r"SERVING_TOLERANCE=0\.02 goes with SERVING_OBJECTIVE=efficiency"):
        settings(tolerance=0.02, objective="accuracy")
    with pytest.raises(ValidationError, match="less than 1"):
        settings(tolerance=1.0)
