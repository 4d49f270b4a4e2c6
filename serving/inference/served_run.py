"""What every deployment of a run has in common, whatever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from selector.policies.base import Policy
from selector.scoring.reached import Reached, read_reached
from selector.scoring.results import read_results
from serving.inference.deployment import Deployment
from serving.inference.finding import check_policy
from serving.inference.plans import Plan, active_plan
from serving.inference.tolerance import check_kept, hold_to
from serving.settings import ServingSettings


def deployment_of(settings: ServingSettings, run: RunFolder, policies: Mapping[str, Policy], **others: Any) -> Deployment:
    """What every deployment of a run has in common, with ``others`` beside and before it."""
    active, why_active = active_of(settings, policies)
    common: dict[str, Any] = {
        "name": run.name,
        "weights": run.digests.weights,
        "active": active,
        "why_active": why_active,
        "resolution": run.record.resolution,
        "classes": run.record.class_names,
        "objective": settings.objective,
    }
    return Deployment(policies=policies, **(common | others))


def static_of(run: RunFolder) -> dict[str, Any]:
    """What a static deployment of a run says of itself."""
    return {
        "name": f"{run.name}-static",
        "key": f"{run.name}-static {run.digests.weights}",
        "results": None,
        "why_no_results": f"SERVING_STATIC=true serves the default of {run.name} alone, which leaves nothing to compare",
    }


def active_of(settings: ServingSettings, policies: Mapping[str, Policy]) -> tuple[Plan, str]:
    """The plan of requests that name none, and why.

    Raises:
        UserError: the settings name another policy, or allow a loss to which nothing keeps surely.
    """
    check_policy(settings, list(policies))
    if settings.tolerance is None or settings.static:
        return active_plan(policies, settings.policy, settings.objective)
    terms = hold_to(policies, settings.tolerance)
    plan, why = active_plan(policies, settings.policy, settings.objective)
    check_kept(policies, plan, settings.policy, why, terms)
    return plan, why


def results_of(run: RunFolder) -> dict[str, Any]:
    """What was measured of the policies; or None, and why not."""
    reached: Mapping[tuple[str, float | None], Reached] = {}
    with suppress(UserError):
        reached = read_reached(run)
    try:
        return {"results": read_results(run), "why_no_results": None, "reached": reached}
    except UserError as error:
        return {"results": None, "why_no_results": str(error), "reached": reached}
