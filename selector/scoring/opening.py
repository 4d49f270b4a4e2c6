"""Run folders as benchmark and export read them: network, images, observations, policies. Nothing else here opens one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.evaluation.collect import Collection, fast_network, reopen
from oracle.settings import DTYPES
from selector.learning.training import FOLDER, observe_run, observed_configurations
from selector.observation.costs import Costs
from selector.observation.observe import Observations
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy
from selector.scoring.shifted import beyond
from selector.scoring.timing import MOST, Stopwatch


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run whose policies are to be ranked.

    Attributes:
        name: of its folder.
        collection: network and images.
        observations: folder of its observations; its results lie beside it.
        policies: that were fitted on its label split.
        policies_digest: of their files.
        label, test: observations of the two splits, under the policies' portfolio.
        shifted: name of another run, and observations of its test images that are unlike those learned from; if wanted.
    """

    name: str
    collection: Collection
    observations: Path
    policies: Sequence[Policy]
    policies_digest: str
    label: Observations
    test: Observations
    shifted: tuple[str, Observations] | None = None


def open_run(
    run: Path,
    *,
    device: str,
    observations: Path | None = None,
    policies: Path | None = None,
    data_dir: Path | None = None,
    shifted: Path | None = None,
    shifted_observations: Path | None = None,
) -> OpenedRun:
    """Open a run, and observe its images unless they were.

    Args:
        run: its folder.
        device: where the network runs.
        observations: folder of its observations, or where they go; within the run unless given.
        policies: folder of its policies; within the run unless given.
        data_dir: where its images are now, if they were moved.
        shifted: folder of another run, on whose test images the policies are to be ranked too.
        shifted_observations: folder of the other run's observations, or where they go; beside the run's unless given.

    Raises:
        UserError: no run or policies there, another network or images than it was made with, or a split without images.
    """
    observations, policies = observations or run / FOLDER / "observations", policies or run / FOLDER / "policies"
    loaded = load_policies(policies)
    other = None if shifted is None else reopen(shifted, device=device, data_dir=data_dir)  # before the hours, if it is none
    collection = reopen(run, device=device, data_dir=data_dir)
    portfolio = [Configuration.parse(name) for name in loaded[0].portfolio_]
    observed = observe_run(collection, observed_configurations(collection, run, len(portfolio)), observations)
    observed = observed.among(portfolio, collection.network, collection.source.resolution)
    label, test = observed.split("label"), observed.split("test")
    if not len(label) or not len(test):
        raise UserError(f"{run} needs readable images in both its splits")
    unlike = None
    if other is not None:
        name = other.settings.out.name
        folder = shifted_observations or observations.parent / f"{name}-shifted"
        unlike = name, _observe_shifted(collection, label, other, folder)
    return OpenedRun(
        name=run.name,
        collection=collection,
        observations=observations,
        policies=loaded,
        policies_digest=digest_of_policies(policies),
        label=label,
        test=test,
        shifted=unlike,
    )


def _observe_shifted(own: Collection, label: Observations, other: Collection, observations: Path) -> Observations:
    """Test images of another run of the same network, under the portfolio of ``label``.

    Of a run in the wide regime only objects smaller or larger than any that policies of the matched regime learned from.
    """
    name = other.settings.out.name
    if other.network.digest != own.network.digest:
        raise UserError(f"--shifted {name} ran another network")
    test = observe_run(other, list(label.portfolio), observations, ("test",))
    if other.settings.regime == "wide" and own.settings.regime == "matched" and test.sides is not None:
        test = beyond(test, label)
    if not len(test):
        raise UserError(f"--shifted {name} has no readable test image unlike those the policies learned from")
    return test


def observe_split(run: Path, split: str, portfolio: int, data_dir: Path | None) -> Observations:
    """One split of a run under all its configurations, or a portfolio of them if they are many."""
    collection = reopen(run, data_dir=data_dir)
    configurations = observed_configurations(collection, run, portfolio)
    return observe_run(collection, configurations, run / FOLDER / "observations").split(split)


def stopwatch_for(opened: OpenedRun) -> Stopwatch:
    """Both networks on the run's device, with its first test images."""
    collection = opened.collection
    settings, source = collection.settings, collection.source
    batch = source.load(np.flatnonzero(source.splits == "test")[:MOST])
    dtype = DTYPES[settings.dtype]
    images = batch.images[torch.from_numpy(batch.readable)]
    return Stopwatch(
        network=fast_network(collection),
        static=collection.network.for_inference(settings.device, dtype),
        portfolio=opened.test.portfolio,
        costs=Costs(collection.network, opened.test.portfolio, source.resolution),
        images=images.to(settings.device, dtype, memory_format=torch.channels_last),
    )


def facts_of(opened: OpenedRun) -> dict[str, Any]:
    """What the run is, JSON-ready."""
    settings, test = opened.collection.settings, opened.test
    return {
        "name": opened.name,
        "model": settings.model,
        "weights": Path(settings.weights).stem if Path(settings.weights).suffix else settings.weights,
        "dataset": settings.dataset,
        "regime": settings.regime if settings.dataset == "fashion-scenes" else None,
        "recalibrated_on": settings.recalibrate,
        "recalibrate_regime": settings.recalibrate_regime,
        "label_images": len(opened.label),
        "test_images": len(test),
        "fitted_on": len(opened.policies[0].fitted_on_),
        "configurations": [c.id for c in test.portfolio],
        "default": test.portfolio[test.default].id,
        "default_gmacs": test.costs.default / 1e9,
        "unsolvable_share": float(1 - test.correct.any(axis=1).mean()),
    }
