"""A request's wishes, checked: a policy, a budget (``max_gmacs``) or a configuration become a plan, or are refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from selector.policies.constant import Cheapest, Default
from selector.policies.objectives import OperatingPoint
from serving.errors import Rejection
from serving.inference.deployment import Deployment
from serving.inference.plans import FORCED, Plan, operating_plan


def plan_request(
    deployment: Deployment,
    policy: str | None = None,
    max_gmacs: float | None = None,
    configuration: str | None = None,
) -> tuple[Plan, OperatingPoint | None]:
    """How to answer a request, and what is expected of it on images like the label images.

    Args:
        deployment: whose policies and configurations there are.
        policy: its name; the active one unless given.
        max_gmacs: expected cost of an image on average, in 10^9 multiply-accumulates, the selector's included: the most
            accurate operating point that costs no more, of any policy or of the one named.
        configuration: id of the one to run.

    Returns:
        The plan, and the accuracy and MACs expected of it; None where nobody measured them.

    Raises:
        Rejection: an unknown name, a budget below the smallest possible, or two wishes that exclude each other.
    """
    if configuration is not None:
        if policy is not None or max_gmacs is not None:
            raise Rejection("invalid", "configuration is forced: give it alone, without policy and max_gmacs")
        return _forced(deployment, configuration), None
    if policy is not None and policy not in deployment.policies:
        raise Rejection("invalid", f"policy must be one of {', '.join(deployment.policies)}, not {policy[:80]!r}")
    if max_gmacs is not None:
        return _within(deployment, max_gmacs, policy)
    if policy is None:
        return deployment.active, _point(deployment, deployment.active)
    return operating_plan(deployment.policies, policy, deployment.objective)


def open_reserve_for(deployment: Deployment, configuration: str) -> None:
    """Open the reserve where a request forces what is not compiled; takes seconds the first time.

    Args:
        deployment: that has one.
        configuration: an id; nothing is opened for what cannot be one.

    Raises:
        Rejection: the reserve cannot be opened.
    """
    if deployment.reserve is None or any(c.id == configuration for c in deployment.configurations):
        return
    try:
        Configuration.parse(configuration)
    except UserError:
        return
    try:
        deployment.reserve.open()
    except UserError as error:
        raise Rejection("invalid", f"configuration {configuration[:80]!r} is not compiled, and {error}") from None


def _forced(deployment: Deployment, configuration: str) -> Plan:
    others = () if deployment.reserve is None else deployment.reserve.configurations
    known = {c.id: c for c in (*deployment.configurations, *others)}
    if configuration not in known:
        few = f"one of {', '.join(known)}" if len(known) <= 32 else f"such as {deployment.default.id}, one of {len(known)}"
        raise Rejection("invalid", f"configuration must be {few}, not {configuration[:80]!r}")
    return Plan(policy=FORCED, configuration=known[configuration])


def _within(deployment: Deployment, max_gmacs: float, policy: str | None) -> tuple[Plan, OperatingPoint | None]:
    names = list(deployment.policies) if policy is None else [policy]
    points = [(name, point) for name in names for point in _points(deployment, name)]
    affordable = [(name, point) for name, point in points if point.macs <= max_gmacs * 1e9]
    if not affordable:
        least = min(point.macs for _, point in points) / 1e9
        whose = "" if policy is None else f" of {policy}"
        raise Rejection(
            "invalid", f"max_gmacs={max_gmacs:g} is too small: the smallest possible{whose} is {round_up(least):g}"
        )
    name, point = max(affordable, key=lambda candidate: (candidate[1].accuracy, -candidate[1].macs))
    chosen = deployment.policies[name]
    return Plan(policy=name, dial=point.dial if chosen.dials else None), point if chosen.points_ else None


def _points(deployment: Deployment, name: str) -> Sequence[OperatingPoint]:
    policy = deployment.policies[name]
    if policy.points_:
        return policy.points_
    # A network without a run has constants only, and nobody knows their accuracy but that the default comes first.
    assert isinstance(policy, Default | Cheapest)
    return [OperatingPoint(0.0, float(name == "default"), float(deployment.costs.whole[policy.column_]))]


def _point(deployment: Deployment, plan: Plan) -> OperatingPoint | None:
    return next((p for p in deployment.policies[plan.policy].points_ if plan.dial in (None, p.dial)), None)


def round_up(gmacs: float) -> float:
    """The least number of four digits that is not below ``gmacs``, so that whoever asks for it gets it.

    >>> f"{round_up(0.0123456):g}"
    '0.01235'
    """
    if gmacs <= 0:
        return 0.0
    step = 10.0 ** (np.floor(np.log10(gmacs)) - 3)
    return float(np.ceil(gmacs / step) * step)
