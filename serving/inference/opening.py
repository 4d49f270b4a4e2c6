"""Opens what the settings name: a run's folder, through :class:`oracle.runs.Run`, or a network's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import dynamic
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.models import class_names, identity_of, known, load_network
from oracle.data.views import View
from oracle.runs import Run
from oracle.settings import DTYPES
from selector.observation.costs import Costs
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy
from selector.policies.constant import Cheapest, Default
from selector.scoring.results import read_results
from selector.shipped import SHIPPED
from serving.inference.deployment import Deployment
from serving.inference.plans import Plan, active_plan
from serving.settings import ServingSettings, in_variables


def folder_of(settings: ServingSettings) -> Path | None:
    """The folder of the run that is served; None for a network given by its name, which comes before a folder's."""
    if settings.network not in SHIPPED and known(settings.network):
        return None
    path = SHIPPED.get(settings.network, Path(settings.network))
    return path if path.is_dir() else None


def check_policy(settings: ServingSettings, names: Sequence[str]) -> None:
    """Raise UserError where the settings name a policy that is not among ``names``."""
    if settings.policy is not None and settings.policy not in names:
        raise UserError(f"SERVING_POLICY={settings.policy}: {settings.network} has {', '.join(names)}")


def open_deployment(settings: ServingSettings) -> Deployment:
    """Load what the settings name.

    Raises:
        UserError: no such run or network, a run without policies, an unknown policy.
    """
    folder = folder_of(settings)
    if folder is None:
        return _from_name(settings)
    return _static(settings, folder) if settings.static else _from_run(settings, folder)


def _from_run(settings: ServingSettings, folder: Path) -> Deployment:
    run = Run.open(folder)
    policies = {policy.name: policy for policy in load_policies(run)}
    portfolio = tuple(Configuration.parse(name) for name in policies["default"].portfolio_)
    results, why = _results(run)
    digests = run.digests
    return _of_run(
        settings,
        run,
        key=f"{run.name} {digests.weights} {digests.statistics[:8]} {digest_of_policies(run.policies)}",
        network=run.fast_network(settings.device, packed=True),
        configurations=run.configurations,
        portfolio=portfolio,
        costs=Costs(run.network, portfolio, run.record.resolution),
        policies=policies,
        results=results,
        why_no_results=why,
    )


def _static(settings: ServingSettings, folder: Path) -> Deployment:
    """The network of a run as one would deploy it without this project: one configuration, its own batch norms, folded."""
    run = Run.open(folder)
    portfolio = (run.network.default,)
    costs = Costs(run.network, portfolio, run.record.resolution)
    return _of_run(
        settings,
        run,
        name=f"{run.name}-static",
        key=f"{run.name}-static {run.digests.weights}",
        network=run.network.for_inference(settings.device, DTYPES[run.settings.dtype], packed=True),
        configurations=portfolio,
        portfolio=portfolio,
        costs=costs,
        policies=_constants(portfolio, costs, run.network.default, [Default]),
        results=None,
        why_no_results=f"SERVING_STATIC=true serves the default of {run.name} alone, which leaves nothing to compare",
    )


def _of_run(settings: ServingSettings, run: Run, policies: dict[str, Policy], **others: Any) -> Deployment:
    """What every deployment of a run has in common."""
    active, why_active = _active(settings, policies)
    common: dict[str, Any] = {
        "active": active,
        "why_active": why_active,
        "name": run.name,
        "transform": _transform(run),
        "resolution": run.record.resolution,
        "classes": run.record.class_names,
        "objective": settings.objective,
        "dtype": DTYPES[run.settings.dtype],
        "device": settings.device,
    }
    return Deployment(policies=policies, **(common | others))


def _from_name(settings: ServingSettings) -> Deployment:
    with in_variables():
        network = load_network(settings.by_name, 0)
    others = identity_of(network.info)
    portfolio = (network.default,) if settings.static else tuple(dynamic.space("stride", network))
    costs = Costs(network, portfolio, network.info.resolution)
    policies = _constants(portfolio, costs, network.default, [Default] if settings.static else [Default, Cheapest])
    active, why_active = _active(settings, policies)
    return Deployment(
        name=network.info.name,
        key=" ".join([network.info.name, network.digest, *(f"{name}={value}" for name, value in others.items())]),
        network=network.for_inference(settings.device, packed=True),
        transform=network.info.preprocessing,
        resolution=network.info.resolution,
        classes=class_names(network.info),
        configurations=portfolio,
        portfolio=portfolio,
        costs=costs,
        policies=policies,
        active=active,
        why_active=why_active,
        objective=settings.objective,
        dtype=torch.float32,
        device=settings.device,
        results=None,
        why_no_results=f"{settings.network} is served without a run: make one with python -m oracle.run, then "
        "selector.train and selector.benchmark, and serve its folder",
    )


def _active(settings: ServingSettings, policies: Mapping[str, Policy]) -> tuple[Plan, str]:
    check_policy(settings, list(policies))
    return active_plan(policies, settings.policy, settings.objective)


def _constants(
    portfolio: Sequence[Configuration],
    costs: Costs,
    default: Configuration,
    kinds: Sequence[type[Default] | type[Cheapest]],
) -> dict[str, Policy]:
    """Policies that need no learning, by name; their accuracy is unknown."""
    policies: dict[str, Policy] = {}
    for kind in kinds:
        policy = kind()
        policy.portfolio_, policy.fitted_on_, policy.points_ = tuple(c.id for c in portfolio), frozenset(), ()
        policy.column_ = portfolio.index(default) if kind is Default else int(costs.whole.argmin())
        policies[policy.name] = policy
    return policies


def _results(run: Run) -> tuple[dict[str, Any] | None, str | None]:
    """What was measured of the policies; or None, and why not."""
    try:
        return read_results(run), None
    except UserError as error:
        return None, str(error)


def _transform(run: Run) -> Callable[[Image.Image], Tensor]:
    """What the run did to its images: preprocessing, then the run's view."""
    prepare, view = run.record.preprocessing, run.view
    if view == View():
        return prepare
    centre = np.full((1, 2), 0.5, np.float32)
    return lambda picture: view.apply(prepare(picture)[None], centre)[0]
