"""A folder that another process works in, as :mod:`dynamic.lock` sees it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamic.lock import LEASE, LOCK


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Held by the process that started this one."""
    facts = f"mode=lease\npid={os.getppid()}\nhost={socket.gethostname()}\ntoken=abc\nduration={LEASE}\n"
    (folder / LOCK).write_text(f"filelock/2\n{facts}")
    yield
    (folder / LOCK).unlink()
