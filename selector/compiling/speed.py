"""Whether a precision pays on this machine: the default configuration in it and in float32."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.session import CompiledSession
from dynamic.errors import UserError
from oracle.run_folder import RunFolder
from selector.compiling.opening import open_graphs

IMAGES = 16
"""Of a batch."""

TURNS = 7
"""Of each, one after the other; the quickest counts, since other work only adds."""

_REST = 0.02
"""Seconds in which the threads of one runtime stop spinning before the other begins."""


def milliseconds(run: RunFolder, network: CompiledNetwork, float32: Iterable[Path]) -> dict[str, Any] | None:
    """What an image takes under the default, by precision, and ``images`` a batch; None where there are no float32 graphs.

    Args:
        run: of the graphs.
        network: its graphs in another precision.
        float32: folders that may hold its float32 graphs.
    """
    for folder in float32:
        try:
            beside = open_graphs(run, folder)
        except UserError:
            continue
        sides: dict[str, CompiledNetwork] = {beside.precision: beside, network.precision: network}
        taken = {name: min(turns) for name, turns in _turns(sides).items()}
        return {"images": IMAGES} | {name: 1000 * seconds / IMAGES for name, seconds in taken.items()}
    return None


def _turns(sides: dict[str, CompiledNetwork]) -> dict[str, list[float]]:
    of = next(iter(sides.values()))
    shape = (IMAGES, of.channels, of.resolution, of.resolution)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, TURNS):  # the first opens the graphs
        for name, network in sides.items():
            time.sleep(_REST)
            began = time.perf_counter()
            CompiledSession(network, images).mixed([network.default] * IMAGES)
            if turn >= 0:
                taken[name].append(time.perf_counter() - began)
    return taken
