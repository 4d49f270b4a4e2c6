"""Opens networks that PyTorch runs: a run's, its static default, one given by name, and the reserve of a compiled run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import dynamic
from dynamic.configuration import Configuration
from dynamic.models import class_names, identity_of, load_network
from dynamic.network import DynamicNetwork
from oracle.data.views import View
from oracle.runs import Run
from oracle.settings import DTYPES
from selector.observation.costs import Costs
from selector.policies import digest_of_policies, load_policies
from selector.policies.constant import Cheapest, Default, constants
from serving.inference.deployment import Deployment
from serving.inference.eager import EagerNetwork
from serving.inference.reserve import OpenedReserve
from serving.inference.served_run import active_of, deployment_of, results_of, static_of
from serving.named import in_variables, network_settings
from serving.settings import ServingSettings


def open_run(settings: ServingSettings, folder: Path) -> Deployment:
    """A run with its policies; every configuration that it evaluated may be forced."""
    run = Run.open(folder)
    policies = {policy.name: policy for policy in load_policies(run)}
    portfolio = tuple(Configuration.parse(name) for name in policies["default"].portfolio_)
    digests = run.digests
    return deployment_of(
        settings,
        run,
        policies,
        key=f"{run.name} {digests.weights} {digests.statistics[:8]} {digest_of_policies(run.policies)}",
        network=_eager(settings, run, run.fast_network(settings.device, packed=True)),
        transform=_transform(run),
        configurations=run.configurations,
        portfolio=portfolio,
        costs=Costs(run.network, portfolio, run.record.resolution),
        **results_of(run),
    )


def open_static(settings: ServingSettings, folder: Path) -> Deployment:
    """The network of a run as one would deploy it without this project: one configuration, its own batch norms, folded."""
    run = Run.open(folder)
    portfolio = (run.network.default,)
    costs = Costs(run.network, portfolio, run.record.resolution)
    network = run.network.for_inference(settings.device, DTYPES[run.settings.dtype], packed=True)
    return deployment_of(
        settings,
        run,
        constants(portfolio, costs.whole, run.network.default, [Default]),
        network=_eager(settings, run, network),
        transform=_transform(run),
        configurations=portfolio,
        portfolio=portfolio,
        costs=costs,
        **static_of(run),
    )


def open_reserve(settings: ServingSettings, folder: Path) -> OpenedReserve:
    """A run's network for what is not compiled of it, on one thread: the threads of its graphs have the cores."""
    run = Run.open(folder)
    one_thread = settings.model_copy(update={"threads": 1})
    network = _eager(one_thread, run, run.fast_network(packed=True))
    return OpenedReserve(network=network, configurations=run.configurations)


def open_named(settings: ServingSettings) -> Deployment:
    """A network without a run: its default, its cheapest stride, or what a request forces."""
    with in_variables():
        network = load_network(network_settings(settings), 0)
    others = identity_of(network.info)
    portfolio = (network.default,) if settings.static else tuple(dynamic.space("stride", network))
    costs = Costs(network, portfolio, network.info.resolution)
    kinds: list[type[Default] | type[Cheapest]] = [Default] if settings.static else [Default, Cheapest]
    policies = constants(portfolio, costs.whole, network.default, kinds)
    active, why_active = active_of(settings, policies)
    return Deployment(
        name=network.info.name,
        key=" ".join([network.info.name, network.digest, *(f"{name}={value}" for name, value in others.items())]),
        weights=network.digest,
        network=EagerNetwork(
            network.for_inference(settings.device, packed=True),
            settings.device,
            torch.float32,
            network.info.resolution,
            settings.threads,
        ),
        transform=network.info.preprocessing.array,
        resolution=network.info.resolution,
        classes=class_names(network.info),
        configurations=portfolio,
        portfolio=portfolio,
        costs=costs,
        policies=policies,
        active=active,
        why_active=why_active,
        objective=settings.objective,
        results=None,
        why_no_results=f"{settings.network} is served without a run: make one with python -m oracle.run, then "
        "selector.train and selector.benchmark, and serve its folder",
    )


def _eager(settings: ServingSettings, run: Run, network: DynamicNetwork) -> EagerNetwork:
    dtype = DTYPES[run.settings.dtype]
    return EagerNetwork(network, settings.device, dtype, run.record.resolution, settings.threads)


def _transform(run: Run) -> Callable[[Image.Image], np.ndarray]:
    """What the run did to its images: preprocessing, then the run's view."""
    prepare, view = run.record.preprocessing, run.view
    if view == View():
        return prepare.array
    centre = np.full((1, 2), 0.5, np.float32)
    return lambda picture: view.apply(prepare(picture)[None], centre)[0].numpy()
