"""Policies of one's own, from a file: ``--policies my_policy.py:Mine``. The run keeps a copy and loads them from it alone.

The file is a Python module that may import this project and what is installed, but no file beside it. Its code runs
wherever the run is trained, ranked or served.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamic.errors import UserError
from dynamic.own_file import own_line, read_own, run_own
from selector.policies.base import Policy

_KEPT = ("fit", "decide", "save", "load", "point", "fresh", "_checked")
"""Methods that a policy must leave as they are."""


def policy_class(path: Path, name: str) -> type[Policy]:
    """The policy class ``name`` of a file, which remembers the file's content.

    Raises:
        UserError: one line about what is wrong with the file or the class.
    """
    source = read_own(path, "policy file")
    module = run_own(path, source)
    found = vars(module).get(name)
    own = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Policy) and value.__module__ == module.__name__
    ]
    if found is None:
        raise UserError(f"{path} has no class {name}: its policies are {', '.join(own) or 'none'}")
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise UserError(f"{path}: {name} is no policy: derive it from selector.policies.base.Policy")
    _check(path, found)
    found.source = source
    found.source_path = path
    return found


def _check(path: Path, found: type[Policy]) -> None:
    """Raise UserError where the class lacks something or changes what it must not."""
    name = found.__name__
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(getattr(found, "name", ""))):
        raise UserError(f'{path}: {name} needs a name of small letters, digits and _, such as name = "mine"')
    if inspect.isabstract(found):
        raise UserError(f"{path}: {name} lacks {', '.join(sorted(found.__abstractmethods__))}")
    changed = [m for m in _KEPT if inspect.getattr_static(found, m) is not inspect.getattr_static(Policy, m)]
    try:
        made = found()
        changed += [method for method in _KEPT if method in vars(made)]
        if changed:
            raise UserError(f"{path}: {name} must not change {changed[0]}: override _fit, _decide, _state and _restore")
        json.dumps(made.parameters())
    except UserError:
        raise
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: {name}() must work without arguments, keep each as an attribute of its name, and take nothing that "
            f"JSON cannot hold ({error})"
        ) from error
    except (Exception, SystemExit) as error:  # whatever its __init__ raises
        raise UserError(own_line(path, error)) from error


@contextmanager
def own_errors(policy: Policy) -> Iterator[None]:
    """Make whatever a policy from a file raises one line that names the file and its line; others' errors are bugs."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if policy.source_path is None:
            raise
        raise UserError(f"{policy.name} fails: {own_line(policy.source_path, error)}") from error
