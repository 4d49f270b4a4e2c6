"""Writing results in one piece or not at all, so that no later run trusts half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from dynamic.errors import UserError

ASSETS = Path(__file__).parent / "assets"
"""Weights and photographs that the package ships."""


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` beside ``path``, wait until it is on the disk, and rename it there.

    Raises:
        OSError: the disk is full or not writable; ``path`` is then what it was, and no part of ``content`` is left.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put a renamed file's new name on the disk, where the platform lets folders be opened."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def make_writable(folder: Path, remedy: str = "choose a folder of yours with --out") -> None:
    """Create ``folder`` and try to write in it. Raises UserError, with a remedy, where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder} ({error.strerror}): {remedy}") from error
