from __future__ import annotations

import pytest

from serving.errors import Rejection
from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.plans import FORCED, Plan


def test_a_budget_takes_the_most_accurate_operating_point_under_it(deployment: Deployment) -> None:
    _, point = plan_request(deployment, max_gmacs=0.03)
    assert point is not None
    assert point.macs <= 0.03e9
    every = [p for policy in deployment.policies.values() for p in policy.points_ if p.macs <= 0.03e9]
    assert point.accuracy == max(p.accuracy for p in every)
    named, within = plan_request(deployment, policy="ranker", max_gmacs=1.0)
    assert named.policy == "ranker"
    assert within is not None


def test_a_budget_that_is_too_small_names_one_that_works(deployment: Deployment) -> None:
    with pytest.raises(Rejection, match="the smallest possible is ") as refused:
        plan_request(deployment, max_gmacs=1e-4)
    smallest = float(refused.value.message.rsplit(" ", 1)[1])
    assert plan_request(deployment, max_gmacs=smallest)[1] is not None


def test_an_unknown_policy_or_configuration_is_refused_with_those_there_are(deployment: Deployment) -> None:
    with pytest.raises(Rejection, match="policy must be one of default"):
        plan_request(deployment, policy="best")
    with pytest.raises(Rejection, match="configuration must be one of s2-1-2-2-2"):
        plan_request(deployment, configuration="s1")
    with pytest.raises(Rejection, match="without policy"):
        plan_request(deployment, policy="default", configuration=deployment.default.id)


def test_a_plan_is_a_policy_or_a_configuration(deployment: Deployment) -> None:
    assert Plan(policy="cascade", dial=0.8).label == "cascade@0.8"
    assert Plan(policy=FORCED, configuration=deployment.default).label == FORCED
    for wrong in ({"policy": FORCED}, {"policy": "cascade", "configuration": deployment.default}):
        with pytest.raises(ValueError, match="a policy or a forced configuration"):
            Plan(**wrong)  # type: ignore[arg-type]
