"""What a person's own code imports from beside itself: found while it is needed, and part of what the code is.

A file's folder stays at the end of ``sys.path`` once the file was run, since a network may import in ``forward``, which is
traced later. Where several folders have a module of the same name, the folder used last comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

_USED: dict[str, frozenset[str]] = {}
"""Folders that code was run from, the last one first; with the names of the modules that were there before it."""


class _Added(str):
    """One of them in ``sys.path``, where it was not anyway."""

    __slots__ = ()


@contextmanager
def importable(folder: str, *, kept: bool = True) -> Iterator[None]:
    """Inside, modules in ``folder`` are imported anew, and found before all others.

    Args:
        folder: absolute; empty for the working folder.
        kept: whether it and what was imported from it stay.
    """
    aside = {name: sys.modules.pop(name) for used in _USED for name in _beside(used, _USED[used]).values()}
    caching = sys.dont_write_bytecode
    before = frozenset(sys.modules)
    sys.path[:] = [folder, *(path for path in sys.path if not isinstance(path, _Added))]
    sys.dont_write_bytecode = True  # a run's folder stays as it is
    try:
        yield
    finally:
        sys.dont_write_bytecode = caching
        sys.path.remove(folder)
        if not kept:
            for name in _beside(folder, before).values():
                del sys.modules[name]
        _remember(folder if kept else "", before)
        for name, module in aside.items():
            if not folder or not Path(module.__file__ or "").is_relative_to(folder):  # of the same folder it is stale
                sys.modules.setdefault(name, module)


def neighbours_of(where: Path | str) -> dict[str, str]:
    """What code imported from beside itself so far: the first 16 hex digits of SHA-256 of every file.

    Args:
        where: a file, whose neighbours lie in its folder, by path below it; or a module, of which no run has a copy: its
            package's modules, itself among them, by dotted name.
    """
    if isinstance(where, Path):
        file = where.resolve()
        folder = str(file.parent)
        paths = [path for path in _beside(folder, _USED.get(folder, frozenset(sys.modules))) if path != file]
        return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in paths}
    package = where.partition(".")[0]
    names = [name for name in sorted(sys.modules) if name.partition(".")[0] == package]
    files = {name: Path(getattr(sys.modules[name], "__file__", None) or "") for name in names}
    return {name: digest(path.read_bytes()) for name, path in files.items() if path.is_file()}


def digest(content: bytes) -> str:
    """The first 16 hex digits of SHA-256."""
    return sha256(content).hexdigest()[:16]


def as_identity(code: bytes, neighbours: Mapping[str, str]) -> dict[str, str]:
    """What tells a person's own code from any other.

    >>> sorted(as_identity(b"import blocks", {"blocks.py": digest(b"")}))
    ['network_file', 'network_neighbours']
    """
    listed = " ".join(f"{name} {neighbours[name]}" for name in sorted(neighbours))
    if len(neighbours) > 3:  # in messages
        listed = f"{len(neighbours)} files {digest(listed.encode())}"
    return {"network_file": digest(code)} | ({"network_neighbours": listed} if listed else {})


def changed(before: Mapping[str, str], now: Mapping[str, str], *, all_known: bool) -> list[str]:
    """Names of neighbours that are others than before; unless ``all_known``, only those that are there both times count.

    >>> changed({"a.py": "1", "b.py": "2"}, {"a.py": "1", "b.py": "3"}, all_known=True)
    ['b.py']
    """
    names = before.keys() | now.keys() if all_known else before.keys() & now.keys()
    return sorted(name for name in names if before.get(name) != now.get(name))


def _remember(folder: str, before: frozenset[str]) -> None:
    if folder:
        _USED.pop(folder, None)
        others = dict(_USED)
        _USED.clear()
        _USED.update({folder: before} | others)
    sys.path.extend(_Added(path) for path in _USED if path not in sys.path)


def _beside(folder: str, before: Collection[str]) -> dict[Path, str]:
    """Files in ``folder`` that were imported since, in order, with the names of their modules."""
    packages = {name.partition(".")[0] for name in before}
    found = {}
    for name in set(sys.modules) - set(before):
        path = Path(getattr(sys.modules[name], "__file__", None) or "")
        # own_...: files that are run, not imported, such as attributes and policies that lie in a run.
        if name.startswith("own_") or name.partition(".")[0] in packages or "site-packages" in path.parts:
            continue
        if path.is_relative_to(folder):
            found[path] = name
    return dict(sorted(found.items()))
