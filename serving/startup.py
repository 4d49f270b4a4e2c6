"""What is found out cheaply before any worker starts: whether network, policy and database of the settings can be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from selector.compiling.opening import open_policies
from selector.policies import load_policy
from selector.policies.base import Policy
from serving.apart import check_named
from serving.inference.finding import check_policy, folder_of, torch_is_installed
from serving.inference.opening import make_graphs
from serving.inference.served_run import active_of
from serving.live.database import NONE, check_url
from serving.settings import ServingSettings


def check_before_start(settings: ServingSettings) -> None:
    """Find out cheaply, before any worker starts, whether the network, policy and database of the settings can be.

    Raises:
        UserError: naming the setting that is wrong and what would be right.
    """
    if settings.database_url != NONE:
        check_url(settings.database_url)
    folder = folder_of(settings)
    if folder is None:
        if not torch_is_installed():
            raise UserError(
                f"SERVING_NETWORK={settings.network} is no folder of a run, and networks by name need PyTorch: "
                "pip install torch torchvision"
            )
        if settings.tolerance is not None and not settings.static:
            raise UserError(
                f"SERVING_TOLERANCE={settings.tolerance:g} needs a run with learned policies, whose losses are guaranteed; "
                f"SERVING_NETWORK={settings.network} is a network by name, with none: leave it out"
            )
        if Path(settings.network).is_dir():
            print(f"SERVING_NETWORK={settings.network} is the network; the folder is ./{settings.network}", file=sys.stderr)
        check_named(settings)
        names = ["default", "cheapest"]
    else:
        _check_no_network_options(settings)
        run = RunFolder(folder)
        if not run.record_file.exists() or not (settings.static or (run.policies / "default").is_dir()):
            raise UserError(
                f"SERVING_NETWORK={settings.network} holds no run with policies: python -m oracle.run --out {folder}, "
                f"python -m selector.train {folder}"
            )
        _ = RunFolder.open(folder).record
        names = sorted(path.name for path in run.policies.iterdir() if path.is_dir()) if run.policies.is_dir() else []
    check_policy(settings, ["default"] if settings.static else names)
    if folder is not None:
        if settings.precision == "float32":  # before graphs are made, which takes longer
            _check_tolerance(settings, lambda: [load_policy(run.policies / name) for name in names])
        graphs = make_graphs(settings, folder)
        if graphs is not None and settings.precision != "float32":  # policies of their own, beside the graphs
            _check_tolerance(settings, lambda: open_policies(RunFolder.open(folder), graphs))


def _check_tolerance(settings: ServingSettings, load: Callable[[], list[Policy]]) -> None:
    """Raise UserError where the policies, loaded only if a tolerance is asked for, do not surely keep to it."""
    if settings.tolerance is not None and not settings.static:
        active_of(settings, {policy.name: policy for policy in load()})


def _check_no_network_options(settings: ServingSettings) -> None:
    """A run has its own layers and preprocessing."""
    names = ("dynamic_layers", "resolution", "mean", "std", "preprocessing")
    given = [f"SERVING_{name.upper()}" for name in names if getattr(settings, name)]
    if given:
        raise UserError(
            f"{', '.join(given)}: for a network given by name; SERVING_NETWORK={settings.network} is a run, with its own"
        )
