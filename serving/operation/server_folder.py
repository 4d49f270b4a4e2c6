"""One folder for each running server: its workers' metrics, and whether they are ready.

The process that starts the workers makes it, they find it in their environment, and whoever of the server ends last removes
it. Two servers of one user so share nothing.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

_VARIABLE = "DYNAMIC_CLASSIFIER_FOLDER"
"""Holds the folder's path; workers inherit it."""

_PROMETHEUS = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "dynamic-classifier-"
_OWNER = "owner"


def enter() -> Path:
    """The folder of this server; the first process makes it, its workers find it.

    A process is a worker where its parent made the folder and BentoML gave it a folder for metrics.
    """
    return _enter()[0]


def metrics_folder() -> Path | None:
    """Where the processes of this server share their metrics; None in a process that is no worker, which keeps its own."""
    if _PROMETHEUS not in os.environ:
        return None
    folder = enter() / "metrics"
    folder.mkdir(exist_ok=True)
    os.environ[_PROMETHEUS] = str(folder)  # Prometheus' client reads it whenever it opens a file
    return folder


def supervisor() -> int | None:
    """Process id of this worker's supervisor; None in a process that has none."""
    return _enter()[1]


def lives(pid: int, birth: str | None = None) -> bool:
    """Whether a process runs: one that was killed is gone, though its parent may not have looked yet.

    Args:
        pid: its id.
        birth: of the process, see :func:`birth_of`, since ids are used again; None where that is unknown.
    """
    try:
        if birth is not None and birth_of(pid) != birth:
            return False
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def birth_of(pid: int) -> str:
    """What tells a process from others that had its id: on Linux ticks since the machine started, which no clock moves.

    Raises:
        psutil.Error: there is no such process.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"{psutil.Process(pid).create_time():.2f}"


def states(folder: Path) -> list[tuple[int, str]]:
    """Process ids and states of workers that said theirs in a folder and live; what dead ones said is removed."""
    found = []
    for path in folder.glob("[0-9]*"):
        if not path.name.isdigit():
            continue
        with suppress(OSError, ValueError):
            state, birth = path.read_text().split()
            if lives(int(path.name), birth):
                found.append((int(path.name), state))
            else:
                path.unlink()
    return found


def remove_if_last() -> None:
    """Remove the folder if no other process of the server is left."""
    folder, parent = _enter()
    if (parent is None or not lives(parent)) and all(pid == os.getpid() for pid, _ in states(folder / "workers")):
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _enter() -> tuple[Path, int | None]:
    inherited = os.environ.get(_VARIABLE)
    if inherited and _PROMETHEUS in os.environ and _owner(Path(inherited)) == os.getppid():
        return Path(inherited), os.getppid()
    _remove_the_dead()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / "workers").mkdir()
    (folder / _OWNER).write_text(f"{os.getpid()} {birth_of(os.getpid())}")
    os.environ[_VARIABLE] = str(folder)
    atexit.register(_remove_own, folder, os.getpid())
    return folder, None


def _remove_own(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def _owner(folder: Path) -> int | None:
    """Process id of who made a folder, if that process still runs."""
    try:
        pid, birth = (folder / _OWNER).read_text().split()
        return int(pid) if lives(int(pid), birth) else None
    except (OSError, ValueError):
        return None


def _remove_the_dead() -> None:
    """Folders of servers that were killed, if they are this user's."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            ours = folder.stat().st_uid == os.getuid() and (folder / _OWNER).exists()
            if ours and _owner(folder) is None and not states(folder / "workers"):
                shutil.rmtree(folder, ignore_errors=True)
