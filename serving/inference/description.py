"""What is deployed, for clients: the body of /v1/network, and a configuration as answers name it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dynamic.attributes.registry import attributes
from dynamic.configuration import Configuration
from serving.inference.deployment import Deployment
from serving.schema import Layer, MadeBy, RunConfiguration
from serving.settings import ServingSettings


def describe(deployment: Deployment, settings: ServingSettings) -> dict[str, Any]:
    """Classes, configurations, policies with their operating points, and limits, JSON-ready.

    ``other_configurations`` says whether a request may force such of the run that are not listed: PyTorch runs them.
    """
    active = deployment.active
    return {
        "network": deployment.name,
        "made_by": describe_maker(deployment, deployment.default).model_dump(),
        "resolution": deployment.resolution,
        "classes": deployment.classes,
        "active": {
            "policy": active.policy,
            "dial": active.dial,
            "objective": deployment.objective,
            "why": deployment.why_active,
        },
        "shadow": None
        if settings.shadow_policy is None
        else {"policy": settings.shadow_policy, "share": settings.shadow_share},
        "default": describe_configuration(deployment, deployment.default).model_dump(),
        "configurations": [describe_configuration(deployment, c).model_dump() for c in deployment.configurations],
        "other_configurations": deployment.reserve is not None,
        "policies": [_describe_policy(deployment, name) for name in deployment.policies],
        "max_images": settings.max_images,
        "keep": settings.keep,
        "keep_seconds": settings.keep_seconds,
    }


def describe_configuration(deployment: Deployment, configuration: Configuration) -> RunConfiguration:
    """Its options layer by layer, and its cost."""
    gmacs = deployment.macs(configuration) / 1e9
    return RunConfiguration(id=configuration.id, layers=options_of(configuration), gmacs=gmacs)


def describe_maker(deployment: Deployment, configuration: Configuration) -> MadeBy:
    """Which network runs a configuration, and how."""
    network = deployment.network_of(configuration)
    return MadeBy(network=deployment.name, weights=deployment.weights, runtime=network.runtime, precision=network.precision)


def options_of(configuration: Configuration) -> list[Layer]:
    """Layer by layer, of every attribute."""
    options = {name: configuration.options(name) for name in attributes()}
    return [
        Layer.of("ABCDEF"[position], {name: chosen[position] for name, chosen in options.items()})
        for position in range(len(configuration.stride))
    ]


def _describe_policy(deployment: Deployment, name: str) -> dict[str, Any]:
    policy = deployment.policies[name]
    points = [
        {"dial": p.dial, "accuracy": p.accuracy, "gmacs": p.macs / 1e9, "guaranteed": p.guaranteed} for p in policy.points_
    ]
    terms = None if policy.terms_ is None else asdict(policy.terms_)
    return {"name": name, "learned": policy.learned, "points": points, "terms": terms}
