"""Where the graphs of a run are, and making them where they are missing: in the run's folder, or in the user's cache."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from dynamic.compiled.folder import CompiledNetwork
from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from oracle.run_record import OWN
from selector.policies import digest_of_policies
from selector.shipped import SHIPPED
from serving.inference.finding import torch_is_installed
from serving.settings import ServingSettings


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
    never = _never(run)
    if never is not None:
        raise NoGraphsError(never)
    found, why = _find(settings, run)
    if found is not None:
        return found
    place = next(filter(_writable, _wanted(settings, run)), None)
    if place is None:
        raise NoGraphsError(f"{why}, and neither {run.compiled} nor the cache can be written to: set XDG_CACHE_HOME")
    if not torch_is_installed():
        raise NoGraphsError(
            f"{why}: python -m selector.compile {run.folder} makes it where PyTorch is installed"
        )
    with _alone(place):
        found, why = _find(settings, run)  # another process may have made them
        return found or _made(settings, run, place, why)


def _never(run: RunFolder) -> str | None:
    """Why a run can have no graphs, whatever is in its folder."""
    asked = run.record.settings
    if (asked.get("crop", 1.0), asked.get("resize", 1.0)) != (1.0, 1.0):
        return f"{run.name} crops or resizes its images with PyTorch (--crop, --resize)"
    if asked.get("dtype", "float32") != "float32":
        return f"{run.name} ran in {asked['dtype']}, and graphs are made from float32"
    return None


def _places(settings: ServingSettings, run: RunFolder) -> tuple[Path, Path]:
    """In the run and in the cache, where the graphs that the settings ask for may be."""
    kind = Path("static") if settings.static else Path()
    digests = run.digests
    # What becomes of the policies matters too: graphs are made for what they look at.
    facts = f"{run.folder.resolve()} {digests.weights} {digests.statistics} {digest_of_policies(run.policies)}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamic-classifier"
    kept = cache / f"{run.name}-{sha256(facts.encode()).hexdigest()[:16]}"
    return run.compiled / kind / settings.precision, kept / kind / settings.precision


def _find(settings: ServingSettings, run: RunFolder) -> tuple[CompiledNetwork | None, str]:
    """What is there, whole and this run's; else None, and why."""
    runtime = None if settings.runtime == "auto" else settings.runtime
    digests = {"weights": run.digests.weights, "statistics": OWN if settings.static else run.digests.statistics}
    why = f"{run.folder} is not compiled"
    for place in _places(settings, run):
        if place.is_dir():
            try:
                return CompiledNetwork.open(place, runtime, settings.threads, digests), ""
            except UserError as error:
                why = str(error)
    return None, why


def _wanted(settings: ServingSettings, run: RunFolder) -> tuple[Path, ...]:
    """Where graphs may be made: not inside an installed package."""
    own, cache = _places(settings, run)
    installed = run.folder in SHIPPED.values() and "site-packages" in run.folder.parts
    return (cache,) if installed else (own, cache)


def _writable(place: Path) -> bool:
    """Whether a folder can be made there, by its nearest parent that exists."""
    return os.access(next(folder for folder in place.parents if folder.exists()), os.W_OK)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """While no other process makes graphs there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f".{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(settings: ServingSettings, run: RunFolder, place: Path, why: str) -> CompiledNetwork:
    """Compile a run in a process of its own, so that the service's have no PyTorch in them."""
    began = time.monotonic()
    print(f"compiling {settings.network} into {place}: {why}", file=sys.stderr)
    command = [sys.executable, "-m", "serving.compile", str(run.folder), str(place)]
    command += ["--precision", settings.precision, *(["--static"] if settings.static else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NoGraphsError(f"{run.folder} cannot be compiled: {lines[-1].removeprefix('error: ')}")
    print(f"compiled in {time.monotonic() - began:.1f} s", file=sys.stderr)
    found, why = _find(settings, run)
    if found is None:
        raise NoGraphsError(why)
    return found
