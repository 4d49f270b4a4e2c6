"""What ``torch.save`` wrote, read without running anything from the file: what is no tensor becomes an inert stand-in.

torch's restricted unpickler reads the file; it calls nothing but its own few functions that make tensors. Every other class
or function that the file names is replaced by a class of this module that takes anything and does nothing.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

_LEGACY_PICKLES = 4
"""Of torch's format before 1.6, up to the one that holds what was saved: a number, a version, the system, the object."""


class StandIn:
    """Stands for an object of a class that is not loaded.

    Attributes:
        kind: full name of the class, or of the function that would have made the object.
        state: what the file says of it; None where it says nothing.
    """

    kind = ""
    state: Any = None

    def __new__(cls, *_arguments: Any) -> Any:
        """Take whatever the class itself would take."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def is_module(self) -> bool:
        """Whether it was a network, or a part of one."""
        return isinstance(self.state, dict) and {"_modules", "_parameters"} <= self.state.keys()


class _Mapping(StandIn):
    """Of a class whose objects hold keys and values, as a dictionary does."""

    def __new__(cls, *_arguments: Any) -> Any:
        return OrderedDict()


def load_inert(path: Path) -> Any:
    """What a file holds, with a :class:`StandIn` for all but tensors, numbers, texts and collections of them.

    Args:
        path: in torch's present format or that of before 1.6.

    Raises:
        Exception: of whatever kind torch raises on a damaged file, or on one that no stand-in helps with.
    """
    kinds: dict[str, type[StandIn]] = dict.fromkeys(named_in(path), StandIn)
    while True:
        made = {name: type(f"stand-in for {name}", (base,), {"kind": name}) for name, base in kinds.items()}
        with warnings.catch_warnings(), safe_globals([(kind, name) for name, kind in made.items()]):
            warnings.simplefilter("ignore")  # of other pickle protocols: what cannot be read raises
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                mapping = next((n for n, kind in made.items() if "SETITEM" in str(error) and str(kind) in str(error)), None)
                if mapping is None or kinds[mapping] is _Mapping:
                    raise
                kinds[mapping] = _Mapping


def named_in(path: Path) -> set[str]:
    """Full names of all classes and functions that a file refers to, found without unpickling it."""
    names = set()
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith("/data.pkl"):
                    with archive.open(entry) as stream:
                        names |= _globals(stream)
    except zipfile.BadZipFile:
        with path.open("rb") as stream:
            for _ in range(_LEGACY_PICKLES):
                names |= _globals(stream)
    return names


def _globals(stream: Any) -> set[str]:
    """Full names in one pickle, in today's spelling; none where it is no pickle, of which torch says more."""
    names = set()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                module, name = str(argument).split(" ", 1)
                module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                names.add(f"{module}.{name}")
    except Exception:  # pickletools raises many kinds
        return set()
    return names
