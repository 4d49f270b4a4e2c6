"""Where the service's own files are: never inside a bento, which is handed on with everything in it."""

from __future__ import annotations

import os
from pathlib import Path

_SQLITE = "sqlite:///"
_NAME = "dynamic-classifier"


def in_state_folder(url: str, directory: str = "", package: Path | None = None) -> str:
    """A database's URL; a SQLite file with a relative path is put into the folder for state.

    Args:
        url: of the database, or ``none``.
        directory: the folder; empty for the current one, or the user's where a bento is served.
        package: folder of this package, unless the true one.

    >>> in_state_folder("sqlite:///runs/serving.db", "/var/lib/serving")
    'sqlite:////var/lib/serving/runs/serving.db'
    >>> in_state_folder("postgresql://host/serving", "/var/lib/serving")
    'postgresql://host/serving'
    """
    file, question, options = url.removeprefix(_SQLITE).partition("?")
    if not url.startswith(_SQLITE) or not file or file == ":memory:" or Path(file).is_absolute():
        return url
    if directory:
        folder = Path(directory).expanduser().absolute()
    elif _in_bento(package or Path(__file__).parents[1]):
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        folder = Path(home).expanduser().absolute() / _NAME
    else:
        return url
    return f"{_SQLITE}{folder / file}{question}{options}"


def _in_bento(package: Path) -> bool:
    """A bento holds the source in src/, beside bento.yaml."""
    return (package.resolve().parents[1] / "bento.yaml").is_file()
