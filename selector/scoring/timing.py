"""Milliseconds of a policy on the running network: looking, deciding and answering, as a service would."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from dynamic.configuration import Configuration
from oracle.evaluation.collect import Collection, fast_network
from oracle.settings import DTYPES
from selector.learning.fitting import play
from selector.observation.costs import Costs
from selector.observation.images import Live
from selector.policies.base import Policy

BATCHES = {"1": 1, "32": 32}
"""Images a batch, by name."""

REPEATS = {"1": 12, "32": 3}


def milliseconds(
    policy: Policy, dial: float | None, collection: Collection, portfolio: Sequence[Configuration]
) -> dict[str, float]:
    """Median milliseconds an image in batches of 1 and of 32 test images, on the run's device."""
    settings, source = collection.settings, collection.source
    network = fast_network(collection)
    costs = Costs(collection.network, portfolio, source.resolution)
    batch = source.load(np.flatnonzero(source.splits == "test")[: 32 * 3])
    images = batch.images[torch.from_numpy(batch.readable)].to(
        settings.device, DTYPES[settings.dtype], memory_format=torch.channels_last
    )
    found = {}
    for name, size in BATCHES.items():
        if len(images) < size:
            continue
        seconds = []
        for repeat in range(REPEATS[name] + 1):
            start = repeat * size % max(len(images) - size + 1, 1)
            some = images[start : start + size]
            began = time.perf_counter()
            play(policy, Live(network, some, portfolio, costs), dial)
            if torch.device(settings.device).type == "cuda":
                torch.cuda.synchronize()
            seconds.append((time.perf_counter() - began) / len(some))
        found[name] = float(1000 * np.median(seconds[1:]))  # the first one warms up
    return found
