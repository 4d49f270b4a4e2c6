"""What is found out cheaply before any worker starts: whether network, policy and database of the settings can be."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import torchvision

from dynamic.errors import UserError
from dynamic.models import SLIM, embedded_weights
from dynamic.models.own_code import CodeName
from oracle.runs import Run
from selector.shipped import SHIPPED
from serving.inference.opening import check_policy, folder_of
from serving.live.database import NONE, check_url
from serving.settings import ServingSettings, in_variables


def check_before_start(settings: ServingSettings) -> None:
    """Find out cheaply, before any worker starts, whether the network, policy and database of the settings can be.

    Raises:
        UserError: naming the setting that is wrong and what would be right.
    """
    if settings.database_url != NONE:
        check_url(settings.database_url)
    folder = folder_of(settings)
    if folder is None:
        _ = settings.by_name
        if Path(settings.network).is_dir():
            print(f"SERVING_NETWORK={settings.network} is the network; the folder is ./{settings.network}", file=sys.stderr)
        _check_network(settings.network, settings.weights)
        names = ["default", "cheapest"]
    else:
        _check_no_network_options(settings)
        run = Run(folder)
        if not run.record_file.exists() or not (settings.static or (run.policies / "default").is_dir()):
            raise UserError(
                f"SERVING_NETWORK={settings.network} holds no run with policies: python -m oracle.run --out {folder}, "
                f"python -m selector.train {folder}"
            )
        _ = Run.open(folder).record
        names = sorted(path.name for path in run.policies.iterdir() if path.is_dir()) if run.policies.is_dir() else []
    check_policy(settings, ["default"] if settings.static else names)


def _check_no_network_options(settings: ServingSettings) -> None:
    """A run has its own layers and preprocessing."""
    names = ("dynamic_layers", "resolution", "mean", "std", "preprocessing")
    given = [f"SERVING_{name.upper()}" for name in names if getattr(settings, name)]
    if given:
        raise UserError(
            f"{', '.join(given)}: for a network given by name; SERVING_NETWORK={settings.network} is a run, with its own"
        )


def _check_network(name: str, weights: str) -> None:
    known = {*SLIM, *torchvision.models.list_models(module=torchvision.models)}
    with in_variables():
        code = CodeName.parse(name)
    if code is not None:
        if code.file is not None and not code.file.is_file():
            raise UserError(f"SERVING_NETWORK={name}: no file {code.file}")
        if weights not in ("default", "none") and not Path(weights).is_file():
            raise UserError(f"SERVING_WEIGHTS={weights} is neither a file nor of default, none")
        return
    if name not in known and not name.startswith("timm/"):
        runs = ", ".join(SHIPPED)
        near = difflib.get_close_matches(name, [*known, *SHIPPED], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"SERVING_NETWORK={name} is neither a run ({runs}, or a folder that exists) nor a network of torchvision{hint} "
            "(others are timm/NAME and my_net.py:FUNCTION)"
        )
    if name in known:
        _check_weights(name, weights)


def _check_weights(name: str, weights: str) -> None:
    known = [] if name in SLIM else [entry.name for entry in torchvision.models.get_model_weights(name)]
    if not (weights in ("default", "none", *known) or Path(weights).is_file() or embedded_weights(name, weights)):
        raise UserError(
            f"SERVING_WEIGHTS={weights} is neither a file nor of default, none{''.join(f', {k}' for k in known)}"
        )
