"""Run folders as benchmark and export read them: network, images, observations, policies. Nothing else here opens one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.lock import held
from oracle.data.sources import ImageSource
from oracle.ray_settings import RaySettings
from oracle.runs import Run
from oracle.settings import DTYPES
from selector.learning.observing import observe_run, observed_configurations
from selector.observation.costs import Costs
from selector.observation.observations import Observations
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy
from selector.policies.running import PolicyRuns
from selector.scoring.rivals import StaticNetwork, read_rivals, write_rivals
from selector.scoring.shifted import beyond
from selector.scoring.timing import MOST, Stopwatch, eager_stopwatch
from selector.shipped import SHIPPED


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run whose policies are to be ranked.

    Attributes:
        run: its folder.
        source: its images.
        device: where its network runs.
        folder: where its observations and results are: the run itself, or elsewhere where that is not to be written to.
        policies: that were fitted on its label split.
        policies_digest: of their files.
        label, test: observations of the two splits, under the policies' portfolio.
        networks: other networks on the same images.
        shifted: name of another run, and observations of its test images that are unlike those learned from; if wanted.
    """

    run: Run
    source: ImageSource
    device: str
    folder: Run
    policies: Sequence[Policy]
    policies_digest: str
    label: Observations
    test: Observations
    networks: Sequence[StaticNetwork] = ()
    shifted: tuple[str, Observations] | None = None

    @cached_property
    def runs(self) -> PolicyRuns:
        """What the policies do to the test images."""
        return PolicyRuns(self.test)


def open_run(
    path: Path,
    *,
    device: str,
    elsewhere: Path | None = None,
    data_dir: Path | None = None,
    shifted: Path | None = None,
    rivals: Sequence[Path] = (),
    ray: RaySettings | None = None,
) -> OpenedRun:
    """Open a run, and observe its images unless they were.

    Args:
        path: its folder.
        device: where the network runs.
        elsewhere: folder for observations and results; the run's own unless given, or where the run cannot be written to.
        data_dir: where its images are now, if they were moved.
        shifted: folder of another run, on whose test images the policies are to be ranked too.
        rivals: folders of runs of other networks; those given before unless any are.
        ray: whether images are observed on a cluster.

    Raises:
        UserError: no run or policies there, another network or images than it was made with, or a split without images.
    """
    run = Run.open(path)
    loaded = load_policies(run)
    other = None if shifted is None else Run.open(shifted)  # before the hours, if it is none
    others = [Run.open(path) for path in rivals]
    folder = written_to(run, elsewhere)
    source, outcomes = run.images(data_dir), run.outcomes()
    portfolio = [Configuration.parse(name) for name in loaded[0].portfolio_]
    configurations = observed_configurations(run, outcomes, len(portfolio))
    if not set(portfolio) <= set(configurations):  # more images since the policies were fitted gave another portfolio
        configurations = portfolio
    where: dict[str, Any] = {"device": device, "data_dir": data_dir, "ray": ray}
    observed = observe_run(run, source, outcomes, configurations, folder.observations, **where)
    observed = observed.among(portfolio, run.network, source.resolution)
    label, test = observed.split("label"), observed.split("test")
    if not len(label) or not len(test):
        raise UserError(f"{path} needs readable images in both its splits")
    unlike = None
    if other is not None:
        unlike = other.name, _observe_shifted(run, label, other, folder.shifted(other.name), where)
    return OpenedRun(
        run=run,
        source=source,
        device=device,
        folder=folder,
        policies=loaded,
        policies_digest=digest_of_policies(run.policies),
        label=label,
        test=test,
        networks=_networks(others, run, folder, label, test),
        shifted=unlike,
    )


def _networks(rivals: Sequence[Run], run: Run, folder: Run, label: Observations, test: Observations) -> list[StaticNetwork]:
    """Those of the given runs, which are remembered; else those that are."""
    if rivals:
        found = [StaticNetwork.of_run(rival, run, label, test) for rival in rivals]
        write_rivals(folder.rivals, found, label, test)
        return found
    return read_rivals(folder.rivals if folder.rivals.exists() else run.rivals, label, test)


def _observe_shifted(own: Run, label: Observations, other: Run, observations: Path, where: dict[str, Any]) -> Observations:
    """Test images of another run of the same network, under the portfolio of ``label``.

    Of a run in the wide regime only objects smaller or larger than any that policies of the matched regime learned from.
    """
    own.digests.require(other.digests, other.folder, "--shifted takes another run of the same network")
    source, outcomes = other.images(where["data_dir"]), other.outcomes()
    test = observe_run(other, source, outcomes, label.portfolio, observations, splits=("test",), **where)
    if other.settings.regime == "wide" and own.settings.regime == "matched" and test.sides is not None:
        test = beyond(test, label)
    if not len(test):
        raise UserError(f"--shifted {other.name} has no readable test image unlike those the policies learned from")
    return test


def written_to(run: Run, elsewhere: Path | None) -> Run:
    """Where observations and results go: into the run, unless it is a shipped one or cannot be written to."""
    shipped = run.folder.resolve() in {path.resolve() for path in SHIPPED.values()}
    own = not shipped and os.access(run.folder, os.W_OK)
    return run if own or elsewhere is None else Run(elsewhere)


def observe_split(
    path: Path, split: str, portfolio: int, data_dir: Path | None, elsewhere: Path | None = None
) -> Observations:
    """One split of a run under all its configurations, or a portfolio of them if they are many.

    Args:
        path: the run's folder.
        split: of its images.
        portfolio: configurations, if the run has many.
        data_dir: where its images are now, if they were moved.
        elsewhere: folder for observations, where they cannot go into the run.

    Raises:
        UserError: no run, images that are gone, or another process that works there.
    """
    run = Run.open(path)
    source, outcomes = run.images(data_dir), run.outcomes()
    configurations = observed_configurations(run, outcomes, portfolio)
    folder = written_to(run, elsewhere)
    with held(folder.folder):
        return observe_run(run, source, outcomes, configurations, folder.observations, data_dir=data_dir).split(split)


def images_to_time(opened: OpenedRun) -> torch.Tensor:
    """(N, 3, H, W) float32, the run's first test images, normalised."""
    batch = opened.source.load(np.flatnonzero(opened.source.splits == "test")[:MOST])
    return batch.images[torch.from_numpy(batch.readable)]


def stopwatch_for(opened: OpenedRun) -> Stopwatch:
    """Both networks in PyTorch on the benchmark's device, with the run's first test images."""
    run, device, dtype = opened.run, opened.device, DTYPES[opened.run.settings.dtype]
    return eager_stopwatch(
        network=run.fast_network(device),
        static=run.network.for_inference(device, dtype),
        portfolio=opened.test.portfolio,
        costs=Costs(run.network, opened.test.portfolio, opened.source.resolution),
        images=images_to_time(opened).to(device, dtype, memory_format=torch.channels_last),
    )


def facts_of(run: Run, policies: Sequence[Policy], label: Observations, test: Observations) -> dict[str, Any]:
    """What a run is, its policies and what was seen of its images, JSON-ready."""
    settings, terms = run.settings, policies[0].terms_
    return {
        "name": run.name,
        "model": settings.model,
        "weights": Path(settings.weights).stem if Path(settings.weights).suffix else settings.weights,
        "dataset": settings.dataset,
        "regime": settings.regime if settings.dataset == "fashion-scenes" else None,
        "recalibrated_on": settings.recalibrate,
        "recalibrate_regime": settings.recalibrate_regime,
        "label_images": len(label),
        "test_images": len(test),
        "fitted_on": policies[0].labels_,
        "promised_on": policies[0].promised_on_,
        "terms": None if terms is None else asdict(terms),
        "configurations": [c.id for c in test.portfolio],
        "default": test.portfolio[test.default].id,
        "default_gmacs": test.costs.default / 1e9,
        "unsolvable_share": float(1 - test.correct.any(axis=1).mean()),
    }
