"""From a run to fitted policies: observe, fit on the label split, save."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from dynamic.command import check_device
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.files import make_writable
from oracle.data.sources import SPLITS
from oracle.evaluation.collect import Collection, reopen
from oracle.evaluation.outcomes import read_outcomes
from selector.learning.fitting import calibrate, learnable_portfolio
from selector.learning.portfolios import portfolio_of
from selector.observation.observe import Observations, observe
from selector.policies import make
from selector.policies.base import OBJECTIVES, Policy

FOLDER = "selector"
"""In a run's folder: what this package leaves there."""

LARGEST = 32
"""Configurations that policies choose among, at most."""

SMALLEST = 8
"""Label images, at least."""

AGREEING = 0.99
"""Share of the run's predictions that must come out the same when they are observed again."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to learn, from what."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of an oracle run."""
    portfolio: int = 16
    """Configurations to choose among, if the run has more: of up to 32 those whose choice can best be learned, by
    cross-validation; of more than 32 as python -m selector.portfolio takes them."""
    policies: str = ""
    """Comma-separated learned policies; all unless given."""
    data_dir: Path | None = None
    """Where the run's images are now, if they were moved."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs; the fitting is done on the CPU."""
    seed: int = 0
    """Deals the folds."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        if not 2 <= self.portfolio <= LARGEST:
            raise UserError(f"--portfolio must be from 2 to {LARGEST}, not {self.portfolio}")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, as {self.seed} is")
        make(self.policies)
        check_device(self.device)


def observed_configurations(collection: Collection, run: Path, size: int) -> list[Configuration]:
    """The run's configurations if they are few, else a portfolio of them."""
    union = list(collection.union)
    return union if len(union) <= LARGEST else portfolio_of(run, size)


def observe_run(
    collection: Collection, portfolio: list[Configuration], out: Path, splits: tuple[str, ...] = SPLITS
) -> Observations:
    """:func:`selector.observation.observe.observe`, checked against the run's outcomes.

    Raises:
        UserError: the network answers otherwise than when the outcomes were made.
    """
    outcomes = read_outcomes(collection.settings.out)
    ids = [c.id for c in portfolio]
    lacking = sorted(set(ids) - set(map(str, outcomes["configuration"].values)))
    if lacking:
        raise UserError(
            f"{collection.settings.out} did not run {lacking[0]}: run oracle.run with --space for this portfolio"
        )
    observed = observe(collection, portfolio, out, splits)
    # What could not be read when the outcomes were made stays out.
    observed = observed.rows(np.isin(observed.keys, outcomes["image"].values))
    outcomes = outcomes.sel(configuration=ids, image=list(observed.keys))
    agreeing = float((outcomes["predicted"].values == observed.predicted).mean()) if len(observed) else 1.0
    if agreeing < AGREEING:
        raise UserError(
            f"only {agreeing:.1%} of the predictions in {collection.settings.out} come out the same here: "
            "run oracle.run again with this network and these versions"
        )
    return observed


def train(settings: TrainSettings) -> list[Policy]:
    """Observe, fit and save; returns the policies.

    >>> train(TrainSettings(run=Path("runs/mine"), policies="cascade"))
    """
    folder = settings.run / FOLDER
    collection = reopen(settings.run, device=settings.device, data_dir=settings.data_dir)
    make_writable(folder)
    configurations = observed_configurations(collection, settings.run, settings.portfolio)
    if len(configurations) < 2:
        raise UserError(f"{settings.run} ran one configuration: there is nothing to choose")
    label = observe_run(collection, configurations, folder / "observations").split("label")
    if len(label) < SMALLEST:
        raise UserError(f"{len(label)} label images are too few to learn from: run oracle.run with more --images")
    if len(configurations) > settings.portfolio:
        chosen = learnable_portfolio(label, settings.portfolio, settings.seed)
        label = label.among([configurations[i] for i in chosen], collection.network, collection.source.resolution)
    return fit_all(make(settings.policies), label, folder / "policies", settings.seed)


def fit_all(policies: list[Policy], label: Observations, out: Path, seed: int) -> list[Policy]:
    """Fit, estimate and save each policy."""
    progress = tqdm(policies, unit="policy", mininterval=0)
    for policy in progress:
        progress.set_description(policy.name)
        calibrate(policy, label, seed)
        policy.save(out / policy.name)
    return policies


def expected(policies: list[Policy]) -> list[dict[str, Any]]:
    """For each policy the operating point of each objective, as estimated on held-out label images."""
    default = next(policy for policy in policies if policy.name == "default").points_[0]
    rows = []
    for policy in policies:
        for objective in OBJECTIVES if policy.dials else OBJECTIVES[:1]:
            point = policy.point(objective, default.accuracy, default.macs)
            assert point is not None
            rows.append({"policy": policy.name, "objective": objective if policy.dials else None} | asdict(point))
    return rows
