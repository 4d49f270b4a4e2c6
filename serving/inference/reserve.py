"""The eager engine beside compiled graphs: opened when the first request forces a configuration that is not compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from dynamic.configuration import Configuration
from serving.inference.served_network import ServedNetwork


@dataclass(frozen=True, kw_only=True)
class OpenedReserve:
    """A network, and every configuration that it may be asked for."""

    network: ServedNetwork
    configurations: tuple[Configuration, ...]


class Reserve:
    """Opens a network once, at first need: that takes seconds and the memory of PyTorch.

    Args:
        opening: makes it.
    """

    def __init__(self, opening: Callable[[], OpenedReserve]) -> None:
        self._opening, self._lock = opening, threading.Lock()
        self._opened: OpenedReserve | None = None

    def open(self) -> OpenedReserve:
        """The network; raises UserError where it cannot be opened."""
        with self._lock:
            if self._opened is None:
                self._opened = self._opening()
            return self._opened

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """Of the network, once it was opened; none before."""
        return () if self._opened is None else self._opened.configurations
