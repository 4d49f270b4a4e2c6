"""The graphs that a service runs: found in the run's folder or the user's cache, and made where they are missing."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.runtimes import open_runtime
from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from selector.compiling import opening, places
from serving.inference.finding import torch_is_installed
from serving.settings import ServingSettings

_FAILED = "DYNAMIC_CLASSIFIER_NOT_COMPILED"
"""Environment variable: what the supervisor tried to compile, and why it could not. Its workers need not try again."""


class NoGraphsError(UserError):
    """A run that cannot be served compiled; the message says why."""


def open_graphs(settings: ServingSettings, run: RunFolder) -> CompiledNetwork:
    """The graphs that the settings ask for; made, with lines on stderr, where there are none or another network's.

    Args:
        settings: of the service.
        run: that is served.

    Raises:
        NoGraphsError: there are none and can be none.
    """
    never = _never(settings, run)
    if never is not None:
        raise NoGraphsError(never)
    found, why = _find(settings, run)
    if found is not None:
        return found
    command = _command(settings, run)
    if settings.precision != "float32" and not settings.static:
        raise NoGraphsError(f"{why}: policies in {settings.precision} are fitted on label images first: {command}")
    if not torch_is_installed():
        raise NoGraphsError(f"{why}: run {command} where PyTorch is installed")
    try:
        place = _kind(settings, places.writable_place(run, settings.precision))
    except UserError as error:
        raise NoGraphsError(f"{why}, and {error}; or set XDG_CACHE_HOME") from None
    tried, _, reason = os.environ.get(_FAILED, "").partition("\n")
    if tried == str(place):
        raise NoGraphsError(reason)
    with _alone(place):
        found, why = _find(settings, run)  # another process may have made them
        return found or _made(settings, run, place, why)


def _command(settings: ServingSettings, run: RunFolder) -> str:
    """What makes the graphs by hand."""
    if settings.static:
        place = _kind(settings, run.compiled / settings.precision)
        return f"python -m serving.compile {run.folder} --precision {settings.precision} --out {place}"
    return f"python -m selector.compile {settings.network} --precision {settings.precision}"


def _never(settings: ServingSettings, run: RunFolder) -> str | None:
    """Why no graphs can run, whatever is in the run's folder."""
    asked = run.record.settings
    if (asked.get("crop", 1.0), asked.get("resize", 1.0)) != (1.0, 1.0):
        return f"{run.name} crops or resizes its images with PyTorch (--crop, --resize)"
    if asked.get("dtype", "float32") != "float32":
        return f"{run.name} ran in {asked['dtype']}, and graphs are made from float32"
    try:
        open_runtime(settings.precision, _runtime(settings), settings.threads)
    except UserError as error:
        return str(error)
    return None


def _kind(settings: ServingSettings, place: Path) -> Path:
    """Where graphs of the default alone are, beside those of the portfolio."""
    return place.parent / "static" / place.name if settings.static else place


def _find(settings: ServingSettings, run: RunFolder) -> tuple[CompiledNetwork | None, str]:
    """What is there, whole and this run's; else None, and why."""
    why = f"{run.folder} is not compiled in {settings.precision}"
    for place in (_kind(settings, place) for place in places.places(run, settings.precision)):
        if place.is_dir():
            try:
                return _open(settings, run, place), ""
            except UserError as error:
                why = str(error)
    return None, why


def _open(settings: ServingSettings, run: RunFolder, place: Path) -> CompiledNetwork:
    if settings.static:
        network = opening.open_static(run, place, _runtime(settings), settings.threads)
    else:
        network = opening.open_graphs(run, place, _runtime(settings), settings.threads)
    if network.precision != settings.precision:
        raise UserError(f"{place} holds graphs in {network.precision}, not {settings.precision}: compile the run again")
    if not settings.static:
        opening.policies_folder(run, network)  # raises where there are none in the precision
    return network


def _runtime(settings: ServingSettings) -> str | None:
    return None if settings.runtime == "auto" else settings.runtime


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """While no other server makes graphs there, in whichever precision: the second waits."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = (place.parent / ".servers.lock").open("w")
    except OSError as error:
        raise NoGraphsError(f"cannot write in {place.parent} ({error.strerror})") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(settings: ServingSettings, run: RunFolder, place: Path, why: str) -> CompiledNetwork:
    """Compile a run in a process of its own, so that the service's have no PyTorch in them."""
    began = time.monotonic()
    print(f"compiling {settings.network} into {place}: {why}", file=sys.stderr)
    module, options = ("serving.compile", ()) if settings.static else ("selector.compile", ("--no-check",))
    command = [
        sys.executable,
        "-m",
        module,
        str(run.folder),
        "--precision",
        settings.precision,
        "--out",
        str(place),
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        reason = f"{run.folder} cannot be compiled: {lines[-1].removeprefix('error: ')}"
        os.environ[_FAILED] = f"{place}\n{reason}"
        raise NoGraphsError(reason)
    print(f"compiled in {time.monotonic() - began:.1f} s", file=sys.stderr)
    found, why = _find(settings, run)
    if found is None:
        raise NoGraphsError(why)
    return found
