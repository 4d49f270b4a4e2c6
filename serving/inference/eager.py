"""The eager engine behind the service: PyTorch, on any device, under any configuration. The reference of compiled graphs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from selector.observation.eager import EagerSession

_ROWS = 16
"""Branches of :meth:`EagerNetwork.every` that run as one batch: enough to be quick, little memory."""


class EagerNetwork:
    """Runs a network with PyTorch; see :class:`serving.inference.served_network.ServedNetwork`.

    Args:
        network: on ``device``, of ``dtype``, as :meth:`DynamicNetwork.for_inference` made it.
        device, dtype: its own.
        resolution: of images in pixels.
        threads: of PyTorch, in whichever thread it runs.
    """

    runtime = "torch"

    def __init__(self, network: DynamicNetwork, device: str, dtype: torch.dtype, resolution: int, threads: int) -> None:
        self.network = network
        self._device, self._dtype, self._resolution, self._threads = device, dtype, resolution, threads

    @property
    def precision(self) -> str:
        """See :class:`serving.inference.served_network.ServedNetwork`."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def default(self) -> Configuration:
        """The configuration that the network was trained with."""
        return self.network.default

    def macs(self, configuration: Configuration) -> int:
        """Multiply-accumulates of one image; one multiply-add counts as 1."""
        return self.network.costs.macs(configuration, self._resolution)

    def seen(self, images: np.ndarray) -> np.ndarray:
        """The images as the network reads them, in its precision."""
        return images if self._dtype == torch.float32 else self._tensor(images).float().cpu().numpy()

    def session(self, images: np.ndarray) -> EagerSession:
        """A batch on the network's device, of its type."""
        torch.set_num_threads(self._threads)
        return EagerSession(self.network, self._tensor(images))

    def open_all(self, stopped: threading.Event, processes: int) -> bool:
        """Nothing: the whole network is loaded."""
        return True

    @torch.inference_mode()
    def every(
        self, images: np.ndarray, configurations: Sequence[Configuration]
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Common prefixes of options once; one thread, since what runs all of them has time."""
        torch.set_num_threads(1)
        for columns, logits in self.network.comprehensive(self._tensor(images), configurations, max_rows=_ROWS):
            yield columns, logits.float().cpu().numpy()

    def _tensor(self, images: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        return tensor.to(self._device, self._dtype, memory_format=torch.channels_last)
