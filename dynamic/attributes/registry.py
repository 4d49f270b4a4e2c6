"""Finds attributes: every module of this package that defines ``ATTRIBUTE``, and files of one's own that were registered."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import dynamic.attributes
from dynamic.attributes.attribute import Attribute, Call, Kernel, Kind
from dynamic.errors import UserError
from dynamic.own_file import own_line, read_own, run_own

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
    source = read_own(path, "attribute")
    for name, known in _sources.items():
        if known == source:
            return _all[name]
    attribute = vars(run_own(path, source)).get("ATTRIBUTE")
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
    import torch  # here, so that configurations can be read without PyTorch

    if attribute.call is None and attribute.kernel is None:
        raise UserError(f"{path}: {attribute.name} changes nothing: it needs a call or a kernel")
    try:
        neutral = attribute.checked((attribute.neutral,))[0]
        call = None if attribute.call is None else attribute.call(Call(), neutral)
        kernel = None if attribute.kernel is None else attribute.kernel(torch.zeros(2, 3, 5, 5), neutral)
    except UserError as error:
        raise UserError(f"{path}: neutral: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(own_line(path, error)) from error
    if not isinstance(call, Call | None):
        raise UserError(f"{path}: the call of {attribute.name} must give a Call, not a {type(call).__name__}")
    if not isinstance(kernel, Kernel | None):
        raise UserError(f"{path}: the kernel of {attribute.name} must give a Kernel, not a {type(kernel).__name__}")
    if kernel is not None and (kernel.weight.shape[:2] != (2, 3) or kernel.weight.ndim != 4):
        raise UserError(f"{path}: the kernel of {attribute.name} must keep the channels, (out, in, k, k)")
