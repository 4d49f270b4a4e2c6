"""Batches without a server: the price of mixing configurations, and the share of a policy's time that goes into choosing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.opening import open_deployment
from serving.inference.plans import FORCED, Plan
from serving.settings import ServingSettings


def mixed_batches(network: str = "resnet50-slim", batch: int = 16, rounds: int = 30) -> list[dict[str, Any]]:
    """Milliseconds of a batch whose images run 1, 4, 16 configurations, against each configuration's uniform batch.

    The expected time without any price is the mean of the uniform batches' times, weighted by images.
    """
    deployment = open_deployment(ServingSettings(network=network, device="cpu"))
    limit = deployment.macs(deployment.default)
    affordable = sorted((c for c in deployment.configurations if deployment.macs(c) <= limit), key=deployment.macs)
    chosen = [affordable[i] for i in np.linspace(0, len(affordable) - 1, 16).round().astype(int)]
    images = torch.randn(batch, 3, deployment.resolution, deployment.resolution, generator=torch.Generator().manual_seed(0))

    def seconds(plans: list[Plan]) -> float:
        times = []
        for _ in range(rounds + 3):
            began = time.perf_counter()
            answer(deployment, images, plans)
            times.append(time.perf_counter() - began)
        return float(np.median(times[3:]))

    uniform = {c: seconds([Plan(policy=FORCED, configuration=c)] * batch) for c in chosen}
    alone = {c: deployment.macs(c) for c in chosen}
    found = []
    for count in (1, 4, 16):
        some = [chosen[i] for i in np.linspace(0, 15, count).round().astype(int)] if count > 1 else [chosen[-1]]
        wanted = [some[row % count] for row in range(batch)]
        plans = [Plan(policy=FORCED, configuration=c) for c in wanted]
        mixed = seconds(plans)
        expected = float(np.mean([uniform[c] for c in wanted]))
        run = sum(a.macs for a in answer(deployment, images, plans))
        found.append(
            {
                "configurations": count,
                "batch": batch,
                "milliseconds": 1000 * mixed,
                "uniform_milliseconds": 1000 * expected,
                "price": mixed / expected,
                "gmacs": run / 1e9,
                "gmacs_alone": sum(alone[c] for c in wanted) / 1e9,
            }
        )
    return found


def selector_shares(
    deployment: Deployment, images: Tensor, policies: Sequence[str], batch: int = 128
) -> list[dict[str, Any]]:
    """Share of a batch's time that goes into choosing: the policy's time less that of running its choices by force."""
    rows = []
    for policy in policies:
        plan = plan_request(deployment, policy=policy)[0]
        with_policy, without, macs = [], [], []
        for start in range(0, min(len(images), 8 * batch) - batch + 1, batch):
            some = images[start : start + batch]
            began = time.perf_counter()
            answers = answer(deployment, some, [plan] * batch)
            with_policy.append(time.perf_counter() - began)
            began = time.perf_counter()
            answer(deployment, some, [Plan(policy=FORCED, configuration=a.configuration) for a in answers])
            without.append(time.perf_counter() - began)
            macs.append(sum(a.selector_macs for a in answers) / sum(a.macs for a in answers))
        whole, bare = float(np.median(with_policy)), float(np.median(without))
        share = {"time_share": max(0.0, 1 - bare / whole), "gmacs_share": float(np.mean(macs))}
        rows.append({"policy": policy, "batch": batch, "milliseconds_an_image": 1000 * whole / batch} | share)
    return rows
