"""Where the graphs of a run are, and making them where they are missing: in the run's folder, or in the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from selector.policies import digest_of_policies
from selector.shipped import SHIPPED
from serving.settings import ServingSettings

Check = Callable[[Path], None]
"""Raises UserError where a folder's graphs are not those of the run, or not whole."""


def places(settings: ServingSettings, run: RunFolder) -> list[Path]:
    """Where the graphs that the settings ask for may be, the best place first."""
    kind = Path("static") if settings.static else Path()
    digests = run.digests
    # What becomes of the policies matters too: graphs are made for what they look at.
    facts = f"{run.folder.resolve()} {digests.weights} {digests.statistics} {digest_of_policies(run.policies)}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamic-classifier"
    kept = cache / f"{run.name}-{sha256(facts.encode()).hexdigest()[:16]}"
    return [place / kind / settings.precision for place in (run.compiled, kept)]


def find(settings: ServingSettings, run: RunFolder, check: Check) -> tuple[Path | None, str]:
    """The first place with graphs that pass ``check``; else None, and why the last one there was did not pass."""
    why = "it is not compiled"
    for place in places(settings, run):
        if place.is_dir():
            try:
                check(place)
            except UserError as error:
                why = str(error)
            else:
                return place, ""
    return None, why


def make(settings: ServingSettings, run: RunFolder, why: str) -> Path:
    """Compile a run in a process of its own, so that the service's have no PyTorch in them.

    Args:
        settings: which graphs.
        run: of which run.
        why: there are none, for the line on stderr.

    Returns:
        The folder of the graphs.

    Raises:
        UserError: they cannot be made; the message is the compiler's.
    """
    place = next(filter(_writable, _wanted(settings, run)), None)
    if place is None:
        raise UserError(f"{why}, and neither {run.compiled} nor the cache can be written to: set XDG_CACHE_HOME")
    began = time.monotonic()
    print(f"compiling {settings.network} into {place}: {why}", file=sys.stderr)
    command = [sys.executable, "-m", "serving.compile", str(run.folder), str(place)]
    command += ["--precision", settings.precision, *(["--static"] if settings.static else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"{why}, and compiling failed: {lines[-1].removeprefix('error: ')}")
    print(f"compiled in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return place


def _wanted(settings: ServingSettings, run: RunFolder) -> list[Path]:
    """Where graphs may be made: not inside an installed package."""
    own, cache = places(settings, run)
    installed = run.folder in SHIPPED.values() and "site-packages" in run.folder.parts
    return [cache] if installed else [own, cache]


def _writable(place: Path) -> bool:
    """Whether a folder can be made there, by its nearest parent that exists."""
    parent = next(folder for folder in place.parents if folder.exists())
    return parent.is_dir() and os.access(parent, os.W_OK)
