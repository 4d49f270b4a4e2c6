"""Which few configurations a policy chooses among: from an oracle run's label split alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
import xarray as xr

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.evaluation.bounds import cost_order, greedy_portfolio, hull, single_best
from oracle.outcomes import blocks
from selector.learning.fitting import folds
from selector.observation.observations import Observations
from selector.policies.boosting import boosted_each
from selector.policies.forest import Forest
from selector.policies.gathering import gather_recorded

LARGEST = 32
"""Configurations that policies choose among, at most."""

USEFUL = 0.6
"""Of the single best's accuracy."""

FEATURES = ("prefix",)
"""By which what can be learned is judged: what the network makes of an image up to its second dynamic layer, under the
default's options. Policies see that, or a part of it, or the map that it is the mean of."""


@dataclass(frozen=True, kw_only=True)
class PortfolioSettings:
    """What to choose from."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of an oracle run."""
    size: int = 16
    """How many configurations, 2 to 32."""
    cost_limit: float | None = None
    """Only configurations of at most so many times the default's MACs."""
    out: Path = Path("portfolio.json")
    """Where to write the list, as oracle.run --space takes it."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        if not 2 <= self.size <= LARGEST:
            raise UserError(f"--size must be from 2 to {LARGEST}, not {self.size}")
        if self.cost_limit is not None and self.cost_limit <= 0:
            raise UserError(f"--cost-limit must be positive, not {self.cost_limit}")


def choose_portfolio(correct: np.ndarray, macs: np.ndarray, default: int, size: int) -> list[int]:
    """Columns: the default, the single best, half of the rest from the static hull, the others greedily for best case.

    Configurations less than :data:`USEFUL` times as accurate as the single best are left out: they raise the best case by
    being right now and then, which nobody can foresee.

    Args:
        correct: (images, configurations) bool, of the label split.
        macs: (configurations,).
        default: column of the network's default.
        size: how many.
    """
    accuracy = correct.mean(axis=0)
    useful = np.flatnonzero((accuracy >= USEFUL * accuracy.max()) | (np.arange(len(macs)) == default))
    if len(useful) < len(macs):
        inner = choose_portfolio(correct[:, useful], macs[useful], useful.tolist().index(default), size)
        return [int(useful[position]) for position in inner]
    chosen = list(dict.fromkeys([default, single_best(correct, macs)]))
    on_hull = hull(macs, accuracy)
    share = max(min(len(on_hull), (size - len(chosen)) // 2), 0)
    spread = on_hull[np.linspace(0, len(on_hull) - 1, share).round().astype(int)] if share else []
    greedy = greedy_portfolio(correct, macs, size)
    chosen = list(dict.fromkeys([*chosen, *map(int, spread), *greedy, *map(int, cost_order(macs))]))
    return sorted(chosen[: min(size, len(macs))])


def learnable_portfolio(observed: Observations, size: int, seed: int = 0) -> list[int]:
    """Columns among which a policy can choose best: the default, then one after the other what helps most.

    What helps is judged by the accuracy of the configuration with the best score, where scores are those of boosted trees
    on what policies see (:data:`FEATURES`), on folds they were not fitted on. Configurations that are right by luck do not
    help.

    Args:
        observed: the label split.
        size: how many.
        seed: deals the folds.
    """
    features = gather_recorded(observed, FEATURES)
    correct, macs = observed.correct, observed.costs.whole
    scores = np.empty(correct.shape)
    for fitted, held in folds(len(observed), seed):
        models = boosted_each(features[fitted], correct[fitted].T, 60, seed, objective="binary")
        scores[held] = Forest(list(models)).raw(features[held])
    rows = np.arange(len(observed))
    chosen = [observed.default]
    while len(chosen) < min(size, correct.shape[1]):
        rest = [column for column in np.argsort(macs, kind="stable").tolist() if column not in chosen]
        reached = [correct[rows, np.array([*chosen, c])[scores[:, [*chosen, c]].argmax(axis=1)]].mean() for c in rest]
        chosen.append(rest[int(np.argmax(reached))])
    return sorted(chosen)


def portfolio_of(
    outcomes: xr.Dataset, default: Configuration, size: int, cost_limit: float | None = None
) -> list[Configuration]:
    """A portfolio of a run, chosen on its label split.

    Args:
        outcomes: of the run, as :meth:`oracle.runs.Run.outcomes` gives them.
        default: the network's.
        size: how many configurations.
        cost_limit: only configurations of at most so many times the default's MACs.

    Raises:
        UserError: no label images.
    """
    label = outcomes.isel(image=outcomes["split"].values == "label")
    if not label.sizes["image"]:
        raise UserError("the run has no label images to choose a portfolio on")
    ids = [str(name) for name in label["configuration"].values]
    macs = label["macs"].values
    limit = np.inf if cost_limit is None else cost_limit * macs[ids.index(default.id)]
    kept = np.flatnonzero((macs <= limit) | (np.array(ids) == default.id))
    correct = np.concatenate(
        [
            (part["predicted"] == part["label"]).values
            for part in blocks(label[["predicted", "label"]].isel(configuration=kept))
        ]
    )
    chosen = choose_portfolio(correct, macs[kept], [ids[i] for i in kept].index(default.id), size)
    return [Configuration.parse(ids[kept[position]]) for position in chosen]
