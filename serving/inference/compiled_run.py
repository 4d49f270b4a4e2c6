"""Opens the graphs of a run with its policies, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from selector.compiling.opening import open_policies, policies_folder, read_results_beside
from selector.observation.costs import Costs
from selector.policies import digest_of_policies
from selector.policies.constant import Default, constants
from serving.inference.compiled import CompiledGraphs
from serving.inference.compiled_folders import open_graphs
from serving.inference.deployment import Deployment
from serving.inference.finding import torch_is_installed
from serving.inference.reserve import OpenedReserve, Reserve
from serving.inference.served_run import deployment_of, results_of, static_of
from serving.settings import ServingSettings


def open_compiled(settings: ServingSettings, folder: Path) -> Deployment:
    """The deployment of a run's graphs.

    Raises:
        NoGraphsError: there are none and can be none.
        UserError: policies that are damaged or another network's, or an unknown one.
    """
    run = RunFolder.open(folder)
    network = open_graphs(settings, run)
    return _static(settings, run, network) if settings.static else _with_policies(settings, run, network)


def _with_policies(settings: ServingSettings, run: RunFolder, network: CompiledNetwork) -> Deployment:
    folder = policies_folder(run, network)
    policies = {policy.name: policy for policy in open_policies(run, network)}
    portfolio = tuple(Configuration.parse(name) for name in policies["default"].portfolio_)
    digests = run.digests
    precision = "" if network.precision == "float32" else f" {network.precision}"
    return deployment_of(
        settings,
        run,
        policies,
        key=f"{run.name} {digests.weights} {digests.statistics[:8]} {digest_of_policies(folder)}{precision}",
        network=CompiledGraphs(network),
        reserve=Reserve(lambda: _reserve(settings, run.folder)) if torch_is_installed() else None,
        transform=run.record.preprocessing.array,
        configurations=network.configurations,
        portfolio=portfolio,
        costs=_costs(network, portfolio),
        **(results_of(run) if folder == run.policies else _results_beside(run, network)),
    )


def _results_beside(run: RunFolder, network: CompiledNetwork) -> dict[str, Any]:
    """What the policies of another precision reached; or None, and why not."""
    try:
        return {"results": read_results_beside(run, network), "why_no_results": None}
    except UserError as error:
        return {"results": None, "why_no_results": str(error)}


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
