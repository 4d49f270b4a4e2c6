"""Where a run's graphs are: in its folder, or, where that cannot be written to, in the user's cache."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from dynamic.compiled.runtimes import Precision
from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from selector.policies import digest_of_policies
from selector.shipped import SHIPPED


def places(run: RunFolder, precision: Precision) -> list[Path]:
    """Where graphs of a precision may be, the run's own folder first.

    Whatever graphs are made for is in the name of the second: the same run with other policies has another.
    """
    digests = run.digests
    facts = f"{run.folder.resolve()} {digests.weights} {digests.statistics} {digest_of_policies(run.policies)}"
    kept = _cache() / "dynamic-classifier" / f"{run.name}-{sha256(facts.encode()).hexdigest()[:16]}"
    return [place / precision for place in (run.compiled, kept)]


def _cache() -> Path:
    """The user's; that of all where the user has no home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return Path("/var/cache")


def writable_place(run: RunFolder, precision: Precision) -> Path:
    """Where graphs may be made, which is not inside an installed package. Raises UserError where nothing can be written."""
    own, cache = places(run, precision)
    installed = run.folder in SHIPPED.values() and "site-packages" in run.folder.parts
    found = next(filter(_writable, [cache] if installed else [own, cache]), None)
    if found is None:
        raise UserError(f"neither {own.parent} nor {cache.parent} can be written to: name a folder with --out")
    return found


def _writable(place: Path) -> bool:
    """Whether a folder can be made there, by its nearest parent that exists."""
    parent = next(folder for folder in place.parents if folder.exists())
    return parent.is_dir() and os.access(parent, os.W_OK)
