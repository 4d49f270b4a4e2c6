"""Opens the graphs of a run with its policies, without PyTorch; they are made before the service starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from oracle.run_record import OWN
from selector.observation.costs import Costs
from selector.policies import digest_of_policies, load_policies
from selector.policies.constant import Default, constants
from serving.inference.compiled import CompiledGraphs
from serving.inference.compiled_folders import find, make
from serving.inference.deployment import Deployment
from serving.inference.finding import torch_is_installed
from serving.inference.reserve import OpenedReserve, Reserve
from serving.inference.served_run import deployment_of, results_of, static_of
from serving.settings import ServingSettings


def why_never_compiled(run: RunFolder) -> str | None:
    """Why a run cannot be served compiled, whatever is in its folder; None where it can."""
    asked = run.record.settings
    if (asked.get("crop", 1.0), asked.get("resize", 1.0)) != (1.0, 1.0):
        return f"{run.name} crops or resizes its images (--crop, --resize) with PyTorch"
    if asked.get("dtype", "float32") != "float32":
        return f"{run.name} is a run in {asked['dtype']}, and graphs are made from float32"
    return None


def prepare(settings: ServingSettings, folder: Path) -> str | None:
    """Make the graphs that the settings ask for where they are missing or another network's.

    Args:
        settings: of the service.
        folder: of the run.

    Returns:
        Why there are none; None where there are.
    """
    run = RunFolder.open(folder)
    never = why_never_compiled(run)
    if never is not None:
        return never
    found, why = find(settings, run, lambda place: _check(settings, run, place))
    if found is not None:
        return None
    if not torch_is_installed():
        return f"{why}, and PyTorch, which makes graphs, is not installed: python -m selector.compile {folder} elsewhere"
    try:
        _check(settings, run, make(settings, run, why))
    except UserError as error:
        return str(error)
    return None


def open_compiled(settings: ServingSettings, folder: Path) -> Deployment | str:
    """The deployment of a run's graphs; or, where there are none, why.

    Raises:
        UserError: policies that are damaged or another network's, or an unknown one.
    """
    run = RunFolder.open(folder)
    found, why = find(settings, run, lambda place: _check(settings, run, place))
    why = why_never_compiled(run) or why
    if found is None:
        return why
    network = _open(settings, run, found)
    return _static(settings, run, network) if settings.static else _with_policies(settings, run, network)


def _open(settings: ServingSettings, run: RunFolder, place: Path) -> CompiledNetwork:
    runtime = None if settings.runtime == "auto" else settings.runtime
    digests = {"weights": run.digests.weights, "statistics": OWN if settings.static else run.digests.statistics}
    return CompiledNetwork.open(place, runtime, settings.threads, digests)


def _check(settings: ServingSettings, run: RunFolder, place: Path) -> None:
    _open(settings, run, place)


def _with_policies(settings: ServingSettings, run: RunFolder, network: CompiledNetwork) -> Deployment:
    policies = {policy.name: policy for policy in load_policies(run)}
    portfolio = tuple(Configuration.parse(name) for name in policies["default"].portfolio_)
    digests = run.digests
    precision = "" if network.precision == "float32" else f" {network.precision}"
    return deployment_of(
        settings,
        run,
        policies,
        key=f"{run.name} {digests.weights} {digests.statistics[:8]} {digest_of_policies(run.policies)}{precision}",
        network=CompiledGraphs(network),
        reserve=Reserve(lambda: _reserve(settings, run.folder)) if torch_is_installed() else None,
        transform=run.record.preprocessing.array,
        configurations=network.configurations,
        portfolio=portfolio,
        costs=_costs(network, portfolio),
        **results_of(run),
    )


def _static(settings: ServingSettings, run: RunFolder, network: CompiledNetwork) -> Deployment:
    portfolio = (network.default,)
    costs = _costs(network, portfolio)
    return deployment_of(
        settings,
        run,
        constants(portfolio, costs.whole, network.default, [Default]),
        network=CompiledGraphs(network),
        transform=run.record.preprocessing.array,
        configurations=portfolio,
        portfolio=portfolio,
        costs=costs,
        **static_of(run),
    )


def _costs(network: CompiledNetwork, portfolio: Sequence[Configuration]) -> Costs:
    """What a run's own :class:`Costs` say, from the nodes that were compiled."""
    record = network.record

    def mask(nodes: Sequence[int]) -> np.ndarray:
        found = np.zeros(len(record.macs), dtype=bool)
        found[list(nodes)] = True
        return found

    paths, default = [network.path(configuration) for configuration in portfolio], network.path(network.default)
    arrays = {
        "macs": np.array(record.macs, dtype=np.int64),
        "paths": np.stack([mask(path) for path in paths]),
        "stages": np.stack([[mask(path[: depth + 1]) for path in paths] for depth in record.depths]),
        "stem": mask(default[:1]),
        "prefix": mask(default[: record.depths[min(1, len(record.depths) - 1)] + 1]),
        "default": np.array(network.macs(network.default), dtype=np.int64),
    }
    return Costs.from_arrays(arrays)


def _reserve(settings: ServingSettings, folder: Path) -> OpenedReserve:
    from serving.inference.opening_eagerly import open_reserve

    return open_reserve(settings, folder)
