"""Finds attributes: every module of this package that defines ``ATTRIBUTE``, and files of one's own that were registered."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType, ModuleType

import dynamic.attributes
from dynamic.attributes.attribute import Attribute, Kind
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
    module = ModuleType(f"dynamic_attribute_of_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:  # whatever a file of one's own raises
        raise UserError(f"the attribute {path} fails: {type(error).__name__}: {error}") from error
    attribute = getattr(module, "ATTRIBUTE", None)
    if not isinstance(attribute, Attribute):
        raise UserError(f"{path} defines no ATTRIBUTE, an Attribute of dynamic.attributes.attribute")
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
