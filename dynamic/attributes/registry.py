"""Finds attributes: every module of this package that defines ``ATTRIBUTE``, and files of one's own that were registered."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType, ModuleType

import torch

import dynamic.attributes
from dynamic.attributes.attribute import Attribute, Call, Kernel, Kind
from dynamic.errors import UserError

_sources: dict[str, bytes] = {}
_all: Mapping[str, Attribute] = {}


def attributes() -> Mapping[str, Attribute]:
    """All attributes by name, in order.

    >>> list(attributes())[:3]
    ['stride', 'dilation', 'kernel_size']
    """
    return _all or built_in()


@functools.cache
def built_in() -> Mapping[str, Attribute]:
    """Those of this package: every configuration names their options."""
    modules = (
        importlib.import_module(f"dynamic.attributes.{found.name}")
        for found in pkgutil.iter_modules(dynamic.attributes.__path__)
    )
    found = sorted((module.ATTRIBUTE for module in modules if hasattr(module, "ATTRIBUTE")), key=lambda found: found.order)
    return MappingProxyType({attribute.name: attribute for attribute in found})


def taken_by(kind: Kind) -> tuple[str, ...]:
    """Names of the attributes that a kind of module takes from the configuration, in order.

    >>> taken_by("pool")
    ('stride',)
    """
    return tuple(name for name, attribute in attributes().items() if kind in attribute.taken_by)


def register(path: Path) -> Attribute:
    """Run a Python file and add the ``ATTRIBUTE`` that it defines, before networks are loaded that are to have it.

    The same content twice is no mistake.

    Raises:
        UserError: a file that cannot be read or run or defines none, or a name or letter that another attribute has.
    """
    global _all
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the attribute {path}: {error.strerror}") from error
    for name, known in _sources.items():
        if known == source:
            return _all[name]
    attribute = _run(path, source).__dict__.get("ATTRIBUTE")
    if not isinstance(attribute, Attribute):
        raise UserError(f"{path} defines no ATTRIBUTE, an Attribute of dynamic.attributes.attribute")
    _check(path, attribute)
    for other in attributes().values():
        if other.name == attribute.name or other.letter == attribute.letter:
            raise UserError(
                f"{path}: the attribute {attribute.name!r} ({attribute.letter}) cannot be registered beside "
                f"{other.name!r} ({other.letter}): another name and letter, or another process for another version"
            )
        if twice := attribute.spaces.keys() & other.spaces.keys():
            raise UserError(f"{path}: a space called {', '.join(sorted(twice))} is there already: choose another name")
    _sources[attribute.name] = source
    found = {**attributes(), attribute.name: attribute}
    _all = MappingProxyType({name: found[name] for name in (*built_in(), *sorted(_sources))})
    return attribute


def register_all(files: str) -> None:
    """:func:`register` files named on a command line, separated by commas."""
    for name in filter(None, (name.strip() for name in files.split(","))):
        register(Path(name))


def source_of(name: str) -> bytes:
    """The file of an attribute of one's own."""
    return _sources[name]


def digest_of(name: str) -> str:
    """Short hash of its file."""
    return sha256(_sources[name]).hexdigest()[:16]


def _check(path: Path, attribute: Attribute) -> None:
    """Raise UserError where an attribute does nothing, or its parts do not give what they should."""
    if attribute.call is None and attribute.kernel is None:
        raise UserError(f"{path}: {attribute.name} changes nothing: it needs a call or a kernel")
    try:
        neutral = attribute.checked((attribute.neutral,))[0]
        call = None if attribute.call is None else attribute.call(Call(), neutral)
        kernel = None if attribute.kernel is None else attribute.kernel(torch.zeros(2, 3, 5, 5), neutral)
    except UserError as error:
        raise UserError(f"{path}: neutral: {error}") from error
    except Exception as error:
        raise UserError(_told(path, error)) from error
    if not isinstance(call, Call | None):
        raise UserError(f"{path}: the call of {attribute.name} must give a Call, not a {type(call).__name__}")
    if not isinstance(kernel, Kernel | None):
        raise UserError(f"{path}: the kernel of {attribute.name} must give a Kernel, not a {type(kernel).__name__}")
    if kernel is not None and (kernel.weight.shape[:2] != (2, 3) or kernel.weight.ndim != 4):
        raise UserError(f"{path}: the kernel of {attribute.name} must keep the channels, (out, in, k, k)")


def _told(path: Path, error: Exception) -> str:
    """Where in the file an error arose, and what it says."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    said = " ".join(str(error).split())
    return f"{path}{f', line {lines[-1]}' if lines else ''}: {type(error).__name__}{said and ': '}{said}"


def _run(path: Path, source: bytes) -> ModuleType:
    """The module that a file defines."""
    module = ModuleType(f"own_attribute_{sha256(source).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # whatever a file of one's own raises
        raise UserError(_told(path, error)) from error
    return module
