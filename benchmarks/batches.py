"""Batches without a server: the price of mixing configurations, and the share of a policy's time that goes into choosing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamic import models, space
from dynamic.compiled.compiling import compile_network
from dynamic.compiled.needs import Needs
from dynamic.configuration import Configuration
from serving.inference.budget import plan_request
from serving.inference.compiled import CompiledGraphs
from serving.inference.deployment import Deployment
from serving.inference.eager import EagerNetwork
from serving.inference.engine import answer
from serving.inference.plans import FORCED, Plan
from serving.inference.served_network import ServedNetwork

SIZES = (1, 4, 8, 16, 32)
"""Images of a batch."""


def mixed_batches(name: str = "resnet50-slim", batch: int = 16, rounds: int = 20) -> list[dict[str, Any]]:
    """Milliseconds of a batch whose images run 1, 4, 16 configurations, against each configuration's uniform batch.

    The expected time without any price is the mean of the uniform batches' times, weighted by images. The eager engine
    runs on one thread; graphs on the pool of the process.
    """
    network = models.load(name)
    resolution = network.info.resolution
    limit = network.macs(network.default, resolution)
    costs = {c: network.macs(c, resolution) for c in space("stride", network)}
    affordable = sorted((c for c, macs in costs.items() if macs <= limit), key=lambda c: costs[c])
    chosen = [affordable[i] for i in np.linspace(0, len(affordable) - 1, 16).round().astype(int)]
    images = np.random.default_rng(0).standard_normal((batch, network.channels, resolution, resolution), np.float32)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        graphs = compile_network(
            network.for_inference(),
            Path(folder) / "graphs",
            configurations=chosen,
            resolution=resolution,
            needs=Needs(),
            looks={},
        )
        engines: list[ServedNetwork] = [
            CompiledGraphs(graphs),
            EagerNetwork(network.for_inference(packed=True), "cpu", torch.float32, resolution, 1),
        ]
        for engine in engines:
            found += _mixed(engine, images, chosen, costs, rounds)
    return found


def _mixed(
    engine: ServedNetwork,
    images: np.ndarray,
    chosen: Sequence[Configuration],
    costs: dict[Configuration, int],
    rounds: int,
) -> list[dict[str, Any]]:
    batch = len(images)
    mixtures = {}
    for count in (1, 4, 16):
        some = [chosen[i] for i in np.linspace(0, 15, count).round().astype(int)] if count > 1 else [chosen[-1]]
        mixtures[count] = [some[row % count] for row in range(batch)]
    batches = [[c] * batch for c in chosen] + list(mixtures.values())
    times = _alternating([_once(engine, images, wanted) for wanted in batches], rounds)
    uniform = dict(zip(chosen, times, strict=False))
    found = []
    for (count, wanted), mixed in zip(mixtures.items(), times[len(chosen) :], strict=True):
        session = engine.session(images)
        session.mixed(wanted)
        expected = float(np.mean([uniform[c] for c in wanted]))
        found.append(
            {
                "runtime": engine.runtime,
                "configurations": count,
                "batch": batch,
                "milliseconds": 1000 * mixed,
                "uniform_milliseconds": 1000 * expected,
                "price": mixed / expected,
                "gmacs": int(session.macs.sum()) / 1e9,
                "gmacs_alone": sum(costs[c] for c in wanted) / 1e9,
            }
        )
    return found


def _once(engine: ServedNetwork, images: np.ndarray, wanted: Sequence[Configuration]) -> Callable[[], object]:
    return lambda: engine.session(images).mixed(wanted)


def _alternating(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, taken in turns, the first three rounds left out."""
    times = np.zeros((rounds, len(works)))
    for row in range(-3, rounds):
        for column, work in enumerate(works):
            began = time.perf_counter()
            work()
            if row >= 0:
                times[row, column] = time.perf_counter() - began
    return [float(median) for median in np.median(times, axis=0)]


def selector_shares(
    deployment: Deployment, images: np.ndarray, policies: Sequence[str], sizes: Sequence[int] = SIZES, batches: int = 8
) -> list[dict[str, Any]]:
    """Share of a batch's time that goes into choosing: the policy's time less that of running its choices by force.

    Args:
        deployment: that answers.
        images: (N, C, H, W) float32, of which the batches are cut.
        policies: by name, each at its operating point.
        sizes: images of a batch.
        batches: of each size, at most; each is run twice, and the second time counts.
    """
    rows = []
    for policy in policies:
        plan = plan_request(deployment, policy=policy)[0]
        for size in sizes:
            with_policy: list[float] = []
            without: list[float] = []
            macs = []
            for start in range(0, min(len(images), batches * size) - size + 1, size):
                some = images[start : start + size]
                answers = answer(deployment, some, [plan] * size)
                forced = [Plan(policy=FORCED, configuration=a.configuration) for a in answers]
                answer(deployment, some, forced)
                for plans, times in (([plan] * size, with_policy), (forced, without)):
                    began = time.perf_counter()
                    answer(deployment, some, plans)
                    times.append(time.perf_counter() - began)
                macs.append(sum(a.selector_macs for a in answers) / sum(a.macs for a in answers))
            whole, bare = float(np.median(with_policy)), float(np.median(without))
            share = {"time_share": max(0.0, 1 - bare / whole), "gmacs_share": float(np.mean(macs))}
            rows.append({"policy": policy, "batch": size, "milliseconds_an_image": 1000 * whole / size} | share)
    return rows
