"""A network that the settings give by its name or code, not by a run: what is asked of it, and whether there is such a one.

PyTorch's libraries know the names, so this module needs them; a compiled run does without it.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torchvision

from dynamic.errors import UserError
from dynamic.models import SLIM, NetworkSettings, embedded_weights, load_network
from dynamic.models.own_code import CodeName
from selector.shipped import SHIPPED
from serving.settings import PREFIX, ServingSettings


def network_settings(settings: ServingSettings) -> NetworkSettings:
    """What the settings ask of a network that they give by its name.

    Raises:
        UserError: options that do not go together; it names the variables.
    """
    with in_variables():
        return NetworkSettings(
            model=settings.network,
            weights=settings.weights,
            dynamic_layers=settings.dynamic_layers,
            resolution=settings.resolution,
            mean=settings.mean,
            std=settings.std,
            preprocessing=settings.preprocessing,
        )


@contextmanager
def in_variables() -> Iterator[None]:
    """Errors that name options of a command line name the environment variables instead."""
    try:
        yield
    except UserError as error:
        names = "|".join(name.replace("_", "-") for name in NetworkSettings.__dataclass_fields__ if name != "model")
        text = re.sub(rf"--({names}) (?=FILE|none|\S+[,./]\S)", lambda found: f"{_variable(found[1])}=", str(error))
        raise UserError(re.sub(rf"--({names})\b", lambda found: _variable(found[1]), text)) from error


def _variable(option: str) -> str:
    return PREFIX + option.upper().replace("-", "_")


def check_network(name: str, weights: str) -> None:
    """Raise UserError where no network has that name, or none of that name these weights."""
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


def check_loads(settings: ServingSettings) -> None:
    """Build the network, without weights that would have to be downloaded, and find its layers.

    What can never work would be tried again and again by the workers, which wait for files and databases that are away.

    Raises:
        UserError: naming the setting that is wrong.
    """
    asked = network_settings(settings)
    if not Path(asked.weights).is_file():
        asked = dataclasses.replace(asked, weights="none")
    with in_variables():
        load_network(asked, 0)


def _check_weights(name: str, weights: str) -> None:
    known = [] if name in SLIM else [entry.name for entry in torchvision.models.get_model_weights(name)]
    if not (weights in ("default", "none", *known) or Path(weights).is_file() or embedded_weights(name, weights)):
        raise UserError(
            f"SERVING_WEIGHTS={weights} is neither a file nor of default, none{''.join(f', {k}' for k in known)}"
        )
