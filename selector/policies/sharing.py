"""What several policies learn alike from the same images, such as the head of three of them, is learned once.

    with sharing():
        for policy in policies:
            with images_as("all", observed):
                policy.fit(observed)  # whatever it takes from once() is there already where an earlier policy made it

Outside of :func:`sharing` everything is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from selector.observation.observations import Observations

T = TypeVar("T")


@dataclass
class _Shared:
    """What was made, by images and by what it is; which images are being learned from."""

    known: dict[tuple[Hashable, Hashable], Any] = field(default_factory=dict)
    name: Hashable = None
    observed: Observations | None = None


_SHARED: ContextVar[_Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Keep until the end what :func:`once` makes."""
    token = _SHARED.set(_Shared())
    try:
        yield
    finally:
        _SHARED.reset(token)


@contextmanager
def images_as(name: Hashable, observed: Observations) -> Iterator[None]:
    """Within, ``observed`` are the images called ``name``: the same ones whenever they are called so."""
    shared = _SHARED.get()
    if shared is None:
        yield
        return
    before = shared.name, shared.observed
    shared.name, shared.observed = name, observed
    try:
        yield
    finally:
        shared.name, shared.observed = before


def once(observed: Observations, what: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` returns; made before, if it was made of the images of the same name. Nobody may write in it.

    Args:
        observed: what it is made of. Others than those that :func:`images_as` named are not shared.
        what: it is; of another kind for all that ``make`` depends on beside the images.
        make: makes it.
    """
    shared = _SHARED.get()
    if shared is None or observed is not shared.observed:
        return make()
    key = shared.name, what
    if key not in shared.known:
        shared.known[key] = make()
    return cast(T, shared.known[key])
