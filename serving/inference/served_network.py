"""What runs configurations for the service, whatever it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from dynamic.configuration import Configuration
from selector.observation.images import NetworkSession


class ServedNetwork(Protocol):
    """What runs configurations on batches of (N, C, H, W) float32: graphs of a compiled run, or the eager engine."""

    @property
    def runtime(self) -> str:
        """``onnxruntime``, ``openvino`` or ``torch``."""

    @property
    def precision(self) -> str:
        """``float32``, ``bfloat16``, ``int8`` or ``float64``."""

    @property
    def default(self) -> Configuration:
        """The configuration that the network was trained with."""

    def macs(self, configuration: Configuration) -> int:
        """Multiply-accumulates of one image; one multiply-add counts as 1."""

    def seen(self, images: np.ndarray) -> np.ndarray:
        """The images as the network reads them, in its precision."""

    def session(self, images: np.ndarray) -> NetworkSession:
        """A batch on which configurations run one after the other, nothing twice."""

    def open_all(self, stopped: threading.Event, processes: int) -> bool:
        """Make ready what any request may need; for a thread of its own.

        Args:
            stopped: ends it early.
            processes: that do the same on this machine.

        Returns:
            Whether all is ready; not where it would take too much memory.
        """

    def every(
        self, images: np.ndarray, configurations: Sequence[Configuration]
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """All configurations, one after the other: positions (several where they cannot differ), (N, classes) logits."""
