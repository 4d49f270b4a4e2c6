"""Which few configurations a policy chooses among: from an oracle run's label split alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.evaluation.bounds import cost_order, greedy_portfolio, hull, single_best
from oracle.evaluation.outcomes import read_outcomes

USEFUL = 0.6
"""Of the single best's accuracy."""


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
        if not 2 <= self.size <= 32:
            raise UserError(f"--size must be from 2 to 32, not {self.size}")
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


def portfolio_of(run: Path, size: int, cost_limit: float | None = None) -> list[Configuration]:
    """The portfolio of an oracle run, chosen on its label split."""
    outcomes = read_outcomes(run)
    label = outcomes.isel(image=outcomes["split"].values == "label")
    if not label.sizes["image"]:
        raise UserError(f"{run} has no label images to choose a portfolio on")
    ids = [str(name) for name in label["configuration"].values]
    default = _default_of(run)
    macs = label["macs"].values
    limit = np.inf if cost_limit is None else cost_limit * macs[ids.index(default)]
    kept = np.flatnonzero((macs <= limit) | (np.array(ids) == default))
    correct = label["predicted"].values == label["label"].values[:, None]
    chosen = choose_portfolio(correct[:, kept], macs[kept], [ids[i] for i in kept].index(default), size)
    return [Configuration.parse(ids[kept[position]]) for position in chosen]


def _default_of(run: Path) -> str:
    try:
        return str(json.loads((run / "summary.json").read_text())["run"]["default"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{run} has no whole summary.json ({error}): run its command again") from error
