"""Opens what the settings name: a run's compiled graphs, its network by PyTorch, or a network by its name."""

from __future__ import annotations

import sys
from pathlib import Path

from dynamic.compiled.folder import CompiledNetwork
from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from serving.inference.compiled_folders import NoGraphsError, open_graphs
from serving.inference.compiled_run import open_compiled
from serving.inference.deployment import Deployment
from serving.inference.finding import folder_of, torch_is_installed
from serving.settings import ServingSettings


def open_deployment(settings: ServingSettings) -> Deployment:
    """Load what the settings name, without PyTorch where a run's graphs are served.

    Raises:
        UserError: no such run or network, a run without policies, an unknown policy, graphs that are needed and not there.
    """
    folder = folder_of(settings)
    if folder is not None:
        folder = folder.resolve()  # graphs are read when they are first run: by then a link may lead elsewhere
    if folder is not None and settings.compiled:
        try:
            return open_compiled(settings, folder)
        except NoGraphsError as error:
            _allow_eager(settings, error)
    if not torch_is_installed():
        raise UserError(f"{settings.network} needs PyTorch, which is not installed: pip install torch torchvision")
    from serving.inference import opening_eagerly

    if folder is None:
        return opening_eagerly.open_named(settings)
    return opening_eagerly.open_static(settings, folder) if settings.static else opening_eagerly.open_run(settings, folder)


def make_graphs(settings: ServingSettings, folder: Path) -> CompiledNetwork | None:
    """Make a run's graphs where they are missing, before any worker starts.

    Returns:
        The graphs; None where PyTorch runs the network.

    Raises:
        UserError: there can be none, and nothing else may or can run the network.
    """
    if settings.compiled:
        try:
            return open_graphs(settings, RunFolder.open(folder))
        except NoGraphsError as error:
            _allow_eager(settings, error)
            print(f"SERVING_RUNTIME=auto is torch: {error}", file=sys.stderr)
    return None


def _allow_eager(settings: ServingSettings, why: NoGraphsError) -> None:
    """Raise UserError where the settings do not leave the choice to the service, or there is none."""
    if settings.runtime != "auto" or settings.precision != "float32" or not torch_is_installed():
        raise UserError(f"SERVING_NETWORK={settings.network} cannot be served compiled: {why}") from why
