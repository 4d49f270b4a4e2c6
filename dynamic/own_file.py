"""A single Python file of a person's own, run as a module: an attribute, a policy. Its errors become one line each.

Networks and transforms may consist of several files, or lie in a package: see :mod:`dynamic.models.own_code`.
"""

from __future__ import annotations

import sys
import traceback
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from dynamic.errors import UserError


def read_own(path: Path, what: str) -> bytes:
    """The content of a file. Raises UserError where it cannot be read; ``what`` it should hold is for the message."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from error


def run_own(path: Path, source: bytes) -> ModuleType:
    """The module that a file defines.

    Args:
        path: for messages and tracebacks.
        source: what is in it.

    Raises:
        UserError: whatever it raises, in one line with the line of the file.
    """
    module = ModuleType(f"own_{sha256(source).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a file of one's own raises
        raise UserError(own_line(path, error)) from error
    return module


def own_line(path: Path, error: Exception | SystemExit) -> str:
    """Where in the file an error arose, and what it says."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    said = " ".join(str(error).split())
    place = f"{path}{f', line {lines[-1]}' if lines else ''}"
    if isinstance(error, SystemExit):
        return f"{place}: ended the program: keep what is a script under if __name__ == '__main__'"
    return f"{place}: {type(error).__name__}{said and ': '}{said}"
