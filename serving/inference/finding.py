"""What the settings name, found without opening it: a run's folder or a network's name, and whether PyTorch is at hand."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from dynamic.errors import UserError
from selector.shipped import SHIPPED
from serving.apart import is_network
from serving.settings import ServingSettings


def folder_of(settings: ServingSettings) -> Path | None:
    """The folder of the run that is served; None for a network given by its name, which comes before a folder's."""
    if settings.network in SHIPPED:
        return SHIPPED[settings.network]
    path = Path(settings.network)
    # Only a bare name can be a network's too, and PyTorch's libraries are asked only then: they take seconds.
    return path if path.is_dir() and not (path.name == settings.network and _is_network(settings.network)) else None


def target_of(settings: ServingSettings) -> str:
    """What the settings name now: a run's folder, whatever links lead to it, or a network's name."""
    folder = folder_of(settings)
    return settings.network if folder is None else str(folder.resolve())


@functools.cache
def _is_network(name: str) -> bool:
    return torch_is_installed() and is_network(name)


def torch_is_installed() -> bool:
    """Whether what is not compiled can run; nothing is imported."""
    return importlib.util.find_spec("torch") is not None


def check_policy(settings: ServingSettings, names: Sequence[str]) -> None:
    """Raise UserError where the settings name a policy, active or shadow, that is not among ``names``."""
    for name, wanted in (("POLICY", settings.policy), ("SHADOW_POLICY", settings.shadow_policy)):
        if wanted is not None and wanted not in names:
            raise UserError(f"SERVING_{name}={wanted}: {settings.network} has {', '.join(names)}")
