"""Writing results in one piece or not at all, so that no later run trusts half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dynamic.errors import UserError

ASSETS = Path(__file__).parent / "assets"
"""Weights and photographs that the package ships."""


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename it there."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def make_writable(folder: Path) -> None:
    """Create ``folder`` and try to write in it. Raises UserError where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder} ({error.strerror}): choose a folder of yours with --out") from error
