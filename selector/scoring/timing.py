"""Milliseconds of policies on the running network, and how they compare with the static network one would deploy.

That is the network under its default configuration with its batch norms folded, without selector, run by what runs the
policies: compiled graphs (:mod:`selector.compiling.timing`) or, here, PyTorch, without recalibrated statistics, since norms
that cannot be folded cost time and being faster than they are would be no speed-up. Policy and static network take turns on
the same images, since no machine is equally fast all the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from selector.observation.costs import Costs
from selector.observation.eager import live_images
from selector.policies.base import Policy
from selector.policies.running import run_policy

BATCHES = {"1": (1, 8), "32": (32, 1)}
"""By name the images of a batch, and the batches of a turn."""

TURNS = 5
"""Of policy and static network each, after one that warms up."""

MOST = 96
"""Test images that are taken in turn."""


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """Times policies and the static network in turns.

    Attributes:
        engine: what runs the network, by name.
        run: a policy at a setting on some of the images, everything included: looking, deciding, answering.
        run_static: the static network on some of the images.
        images: (N, 3, H, W), normalised, as both take them.
        wait: until all that was begun has ended.
    """

    engine: str
    run: Callable[[Policy, float | None, Any], object]
    run_static: Callable[[Any], object]
    images: Tensor | np.ndarray
    wait: Callable[[], None] = lambda: None
    _static_seconds: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False)

    def time(self, policy: Policy, dial: float | None) -> dict[str, Any]:
        """Time one policy at one setting.

        Returns:
            JSON-ready: ``milliseconds``, the median for an image by size of the batch, and ``static_ratio``, how many times
            as fast as the static network: ``median``, ``low`` and ``high`` of the turns. Sizes with too few images are left
            out.
        """
        milliseconds, ratios = {}, {}
        for name, (size, batches) in BATCHES.items():
            if len(self.images) < size:
                continue
            mine, static = self._turns(policy, dial, size, batches)
            self._static_seconds.setdefault(name, []).extend(static.tolist())
            milliseconds[name] = float(1000 * np.median(mine))
            ratio = static / mine
            ratios[name] = {"median": float(np.median(ratio)), "low": float(ratio.min()), "high": float(ratio.max())}
        return {"milliseconds": milliseconds, "static_ratio": ratios}

    def static_milliseconds(self) -> dict[str, float] | None:
        """Median milliseconds an image of the static network in all turns so far, by size of the batch; None before any."""
        return {name: float(1000 * np.median(all_)) for name, all_ in self._static_seconds.items()} or None

    def _turns(self, policy: Policy, dial: float | None, size: int, batches: int) -> tuple[np.ndarray, np.ndarray]:
        """(TURNS,) seconds an image of the policy and of the static network."""
        answers = partial(self.run, policy, dial), self.run_static
        seconds = []
        for turn in range(TURNS + 1):
            starts = [(turn * batches + batch) * size % (len(self.images) - size + 1) for batch in range(batches)]
            some = [self.images[start : start + size] for start in starts]
            seconds.append([self._seconds(answer, some) for answer in answers])
        mine, static = np.array(seconds[1:]).T / (size * batches)  # the first turn warms up
        return mine, static

    def _seconds(self, answer: Callable[[Any], object], batches: Sequence[Any]) -> float:
        self.wait()
        began = time.perf_counter()
        for images in batches:
            answer(images)
        self.wait()
        return time.perf_counter() - began


def eager_stopwatch(
    network: DynamicNetwork, static: DynamicNetwork, portfolio: Sequence[Configuration], costs: Costs, images: Tensor
) -> Stopwatch:
    """Times in PyTorch.

    Args:
        network: under which policies run, as :meth:`DynamicNetwork.for_inference` made it.
        static: the same network with its batch norms folded.
        portfolio: of the policies.
        costs: of that portfolio.
        images: (N, 3, H, W), normalised, on the networks' device and of their dtype.
    """

    def run(policy: Policy, dial: float | None, some: Tensor) -> object:
        return run_policy(policy, live_images(network, some, portfolio, costs), dial)

    def run_static(some: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return static(some, static.default).float().softmax(dim=1).cpu().numpy().argmax(axis=1)

    on_gpu = images.device.type == "cuda"
    wait = {"wait": torch.cuda.synchronize} if on_gpu else {}
    return Stopwatch(engine="PyTorch", run=run, run_static=run_static, images=images, **wait)


def time_rows(stopwatch: Stopwatch, rows: Sequence[dict[str, Any]], policies: Sequence[Policy]) -> None:
    """Add ``milliseconds`` and ``static_ratio`` to rows of a ranking; None where the row's policy is not among ``policies``.

    The same policy at the same setting is timed once.
    """
    by_name = {policy.name: policy for policy in policies}
    timed: dict[tuple[str, float | None], dict[str, Any]] = {}
    for row in rows:
        setting = row["policy"], row["dial"]
        if row["policy"] in by_name and setting not in timed:
            timed[setting] = stopwatch.time(by_name[row["policy"]], row["dial"])
        row.update(timed.get(setting, {"milliseconds": None, "static_ratio": None}))
