"""A compiled run behind the service: static graphs in ONNX Runtime or OpenVINO, without PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.session import CompiledSession
from dynamic.configuration import Configuration


class CompiledGraphs:
    """Runs compiled graphs; see :class:`serving.inference.served_network.ServedNetwork`.

    Args:
        network: an opened folder of graphs.
    """

    def __init__(self, network: CompiledNetwork) -> None:
        self.network = network
        self.runtime, self.precision = str(network.runtime), str(network.precision)

    @property
    def default(self) -> Configuration:
        """The configuration that the network was trained with."""
        return self.network.default

    def macs(self, configuration: Configuration) -> int:
        """Multiply-accumulates of one image; one multiply-add counts as 1."""
        return self.network.macs(configuration)

    def seen(self, images: np.ndarray) -> np.ndarray:
        """The images as they are: graphs read float32 in every precision."""
        return images

    def session(self, images: np.ndarray) -> CompiledSession:
        """A batch on which configurations run one after the other, nothing twice."""
        return CompiledSession(self.network, images)

    def open_all(self, stopped: threading.Event, processes: int) -> bool:
        """All graphs, one after another; see :meth:`dynamic.compiled.folder.CompiledNetwork.open_all`."""
        return self.network.open_all(stopped, processes)

    def every(
        self, images: np.ndarray, configurations: Sequence[Configuration]
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Whole graphs, one after the other."""
        for column, configuration in enumerate(configurations):
            yield [column], self.session(images).mixed([configuration] * len(images))
