"""The eager engine's sessions with answers in numpy, as :class:`dynamic.compiled.session.CompiledSession` gives them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from dynamic.session import Session
from selector.observation.costs import Costs
from selector.observation.features import LOOKS
from selector.observation.images import LiveImages


class EagerSession:
    """A :class:`dynamic.session.Session` whose answers are numpy; see :class:`selector.observation.images.NetworkSession`.

    Args:
        network: as :meth:`DynamicNetwork.for_inference` made it.
        images: (N, C, H, W), normalised, on its device and of its dtype.
    """

    def __init__(self, network: DynamicNetwork, images: Tensor) -> None:
        self._images, self._session = images, Session(network, images)

    @property
    def macs(self) -> np.ndarray:
        """(N,) int64 multiply-accumulates that were really run on each image."""
        return self._session.macs

    @cached_property
    def pixels(self) -> np.ndarray:
        """(N, C, H, W) float32: the images as the network sees them, in its precision."""
        return self._images.float().cpu().numpy()

    @torch.inference_mode()
    def logits(self, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """(rows, classes) float32."""
        return self._session.logits(configuration, rows).float().cpu().numpy()

    @torch.inference_mode()
    def mixed(self, configurations: Sequence[Configuration]) -> np.ndarray:
        """(N, classes) float32, image i under ``configurations[i]``."""
        return self._session.mixed(configurations).float().cpu().numpy()

    @torch.inference_mode()
    def look(self, kind: str, layer: int, configuration: Configuration, rows: np.ndarray) -> np.ndarray:
        """A look of one of the kinds of :data:`selector.observation.features.LOOKS` at what a dynamic layer reads."""
        return LOOKS[kind](self._session.before(layer, configuration, rows)).numpy()


def live_images(
    network: DynamicNetwork,
    images: Tensor,
    portfolio: Sequence[Configuration],
    costs: Costs,
    keys: np.ndarray | None = None,
) -> LiveImages:
    """Images on which a network runs eagerly.

    Args:
        network, images: see :class:`EagerSession`.
        portfolio: as the policy's; the network's default must be in it.
        costs: of that portfolio.
        keys: (N,) names, which only policies that draw lots use.
    """
    session = EagerSession(network, images)
    return LiveImages(session, session.pixels, portfolio, network.default, costs, keys)
