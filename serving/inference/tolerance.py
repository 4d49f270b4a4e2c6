"""``SERVING_TOLERANCE``: what the active policy may lose, by the guarantee that was stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dynamic.errors import UserError
from selector.policies.base import Policy
from selector.policies.choice import DEFAULT
from selector.policies.objectives import Terms
from serving.inference.plans import Plan


def hold_to(policies: Mapping[str, Policy], tolerance: float) -> Terms:
    """Let objectives judge policies by another tolerance than they were trained for; the stored guarantees stay.

    A guarantee is a bound for each setting, whatever the tolerance: it holds for any that is fixed without looking at it.

    Args:
        policies: by name.
        tolerance: accuracy below the default's, at most, as a share.

    Returns:
        The terms by which they are judged now.

    Raises:
        UserError: nothing is guaranteed of them.
    """
    learned = [policy for policy in policies.values() if policy.learned]
    terms = next((policy.terms_ for policy in learned if policy.terms_ is not None), None)
    if terms is None or any(point.guaranteed is None for policy in learned for point in policy.points_):
        raise UserError(
            f"SERVING_TOLERANCE={tolerance:g}: nothing is guaranteed of the policies that are served; run "
            "selector.train, which stores guarantees, or leave it out"
        )
    terms = replace(terms, tolerance=tolerance)
    for policy in policies.values():
        policy.terms_ = terms
    return terms


def check_kept(policies: Mapping[str, Policy], plan: Plan, wanted: str | None, why: str, terms: Terms) -> None:
    """Raise UserError where nothing keeps to the tolerance but the default that nobody asked for.

    Args:
        policies: by name.
        plan: that was chosen.
        wanted: name of the policy that the settings force.
        why: the plan was chosen.
        terms: see :func:`hold_to`.
    """
    asked = f"SERVING_TOLERANCE={terms.tolerance:g} with {terms.confidence:.0%} confidence"
    remedy = "allow more, learn from more label images, or serve the default with SERVING_POLICY=default"
    if plan.policy == DEFAULT:
        if wanted is None:
            raise UserError(f"{asked}: no setting of a learned policy is guaranteed to keep to it ({why}): {remedy}")
        return
    points = [p for p in policies[plan.policy].points_ if plan.dial in (None, p.dial)]
    least = points[0].guaranteed if points else None
    if least is None or least < -terms.tolerance:
        said = "nothing" if least is None else f"at most {-100 * least:.1f} points below the default"
        raise UserError(f"{asked}: of {plan.policy} {said} is guaranteed: {remedy}")
