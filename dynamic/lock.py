"""One process at a time in a folder of results, on local and on network file systems."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
from filelock import LeaseCompromise, OwnerRecord, SoftFileLease, Timeout

from dynamic.errors import UserError
from dynamic.files import make_writable

LOCK = ".lock"
"""Beside the results: who works on them. It is removed at the end."""

LEASE = 60.0
"""Seconds without a sign of life after which a holder on another machine counts as dead; on this one it is asked for."""


@contextmanager
def held(folder: Path, remedy: str = "choose a folder of yours with --out", lease: float = LEASE) -> Iterator[None]:
    """Create ``folder`` and hold it against other processes; within this one it may be held several times.

    A holder that has died is superseded: at once where it ran on this machine, else after ``lease`` seconds without a sign
    of life. Where a holder loses the folder (its machine slept for longer), it is interrupted (or, where it was started with
    interrupts ignored, terminated), so that two never write.

    Args:
        folder: of results.
        remedy: see :func:`dynamic.files.make_writable`.
        lease: the same for all processes that may meet here.

    Raises:
        UserError: another process works there (it is named), or the folder cannot be written.

    >>> import tempfile
    >>> with held(Path(tempfile.mkdtemp())):
    ...     pass
    """
    make_writable(folder, remedy)
    path = folder.resolve() / LOCK
    lock = SoftFileLease(
        path, lease_duration=lease, on_compromise=_interrupted, thread_local=False, is_singleton=True, timeout=0
    )
    try:
        _acquire(lock, path, lease)
    except OSError as error:
        raise UserError(f"cannot hold {folder} against other processes ({error}): {remedy}") from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: SoftFileLease, path: Path, lease: float) -> None:
    try:
        lock.acquire()
    except Timeout:
        owner = lock.owner
        who = _described(owner, path)
        refusal = UserError(f"{path.parent} is in use {who}: wait until it ends, or choose another folder")
        if owner is None or _here(owner):
            raise refusal from None
        print(f"{path.parent} is in use {who}; waiting {lease:.0f} s for a sign of life", file=sys.stderr)
        try:
            lock.acquire(timeout=lease * 1.25)
        except Timeout:
            raise refusal from None


def _here(owner: OwnerRecord) -> bool:
    """Whether a holder's process id means something here; in containers filelock's host names end in the ids' namespace."""
    name, _, space = owner.hostname.partition("?pidns-")
    if name != socket.gethostname():
        return False
    return not space or space == f"{os.stat('/proc/self/ns/pid').st_ino:x}"


def _described(owner: OwnerRecord | None, path: Path) -> str:
    if owner is None:
        return "by another process"
    if not _here(owner):
        with contextlib.suppress(OSError):
            return f"by process {owner.pid} on {owner.hostname}, last seen at {_time(path.stat().st_mtime)}"
        return f"by process {owner.pid} on {owner.hostname}"
    with contextlib.suppress(psutil.Error):
        return f"by process {owner.pid}, which runs since {_time(psutil.Process(owner.pid).create_time())}"
    return f"by process {owner.pid}"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


def _interrupted(lost: LeaseCompromise) -> None:
    print(
        f"{Path(lost.lock_file).parent} was taken over by another process ({lost.reason}); stopping here",
        file=sys.stderr,
    )
    ignored = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL)  # as scripts start what runs behind them
    # A true signal, since only that wakes who sleeps or waits.
    signal.pthread_kill(_main_thread(), signal.SIGTERM if ignored else signal.SIGINT)


def _main_thread() -> int:
    ident = threading.main_thread().ident
    assert ident is not None
    return ident
