"""The steps of ``python -m selector.search``: read label images, search on half of them, promise on the other half."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
import xarray as xr
from tqdm import tqdm

from dynamic.command import check_device
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.integrity import write_record
from dynamic.lock import held
from oracle.evaluation.bounds import cost_order, single_best
from oracle.evaluation.ray_workers import cluster
from oracle.outcomes import blocks
from oracle.ray_settings import RaySettings
from oracle.runs import Run
from oracle.searched import SEARCH, SEARCHED_ON
from selector.learning.observing import observe_run
from selector.learning.portfolios import FEATURES, LARGEST, choose_portfolio
from selector.observation.costs import Costs
from selector.observation.observations import Observations
from selector.policies.gathering import gather_recorded
from selector.policies.guarantee import CONFIDENCE, lower_bounds
from selector.scoring.resampling import draw_resamples, percentile_interval, resampled_means
from selector.scoring.tables import difference_text
from selector.shipped import SHIPPED
from selector.tuning.learnable import (
    Candidates,
    Probe,
    ProbeName,
    Reached,
    deal,
    priced,
    reached,
    search_portfolio,
    steps_of,
)

FEWEST = 32
"""Label images, at least: half to search on, in folds, and half to estimate on what is promised."""

HEADER = ["on the other half", "accuracy", "MMACs", "points from the best static"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings(RaySettings):
    """What to search, for what."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of an oracle run of many configurations, the candidates."""
    size: int = 8
    """Configurations of the portfolio, 2 to 32, the default among them."""
    max_macs: float | None = None
    """Mean multiply-accumulates an image, at most so many times the default's, what the features cost included; no limit
    unless given."""
    probe: ProbeName = "ridge"
    """The selector that says what can be learned: ridge regression, in seconds, or boosted trees, a model a candidate."""
    data_dir: Path | None = None
    """Where the run's images are now, if they were moved."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""
    seed: int = 0
    """Deals the halves and folds."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.size <= LARGEST:
            raise UserError(f"--size must be from 2 to {LARGEST}, not {self.size}")
        if self.max_macs is not None and not 0 < self.max_macs < np.inf:
            raise UserError(f"--max-macs must be positive (1: what the default costs), not {self.max_macs}")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, as {self.seed} is")
        check_device(self.device)


def search_run(settings: SearchSettings) -> dict[str, Any]:
    """Search, leave ``RUN/searched/portfolio.json`` and ``search.json``, and return what the latter holds.

    Raises:
        UserError: no finished run, one that the package ships, too few label images or candidates, or another process that
            works on the run.
    """
    run = Run.open(settings.run)
    if run.folder.resolve() in {path.resolve() for path in SHIPPED.values()}:
        raise UserError(f"{run.name} is shipped with the package and is not written to: copy it to a folder of yours")
    began = time.perf_counter()
    with held(run.folder, "copy the run to a folder of yours"):
        candidates, keys = _candidates(settings, run)
        observed = time.perf_counter()
        ids = [c.id for c in run.configurations]
        result = {"run": str(settings.run)} | search_candidates(settings, candidates, ids)
        result["cost"] |= {"observing_seconds": round(observed - began, 1)}
        result["out"] = str(run.searched / "portfolio.json")
        run.searched.mkdir(exist_ok=True)
        searched, _ = deal(len(candidates), settings.seed)
        # Before the portfolio: one that lies there without its record would be taken for one that nobody searched for.
        write_record(run.searched / SEARCH, result | {SEARCHED_ON: sorted(map(str, keys[searched]))})
        write_whole(run.searched / "portfolio.json", json.dumps(result["portfolio"], indent=1).encode())
    return result


def _candidates(settings: SearchSettings, run: Run) -> tuple[Candidates, np.ndarray]:
    """Features of the run's label images, which the network runs for, and its outcomes on them; and their keys."""
    source, outcomes, default = run.images(settings.data_dir), run.outcomes(), run.network.default
    label = outcomes.isel(image=outcomes["split"].values == "label")
    _refuse(settings, label.sizes["image"], label.sizes["configuration"])
    if default not in run.configurations:
        raise UserError(f"{run.folder} did not run the default {default.id}, the baseline of every comparison")
    _say(f"looking at {label.sizes['image']} label images, under the default alone")
    with cluster(settings):
        seen = observe_run(
            run,
            source,
            outcomes,
            [default],
            run.observations,
            splits=("label",),
            device=settings.device,
            data_dir=settings.data_dir,
            ray=settings,
        )
    _refuse(settings, len(seen), label.sizes["configuration"])
    costs = Costs(run.network, run.configurations, source.resolution)
    candidates = Candidates(
        features=gather_recorded(seen, FEATURES),
        correct=_correct(label, seen),
        macs=costs.whole,
        charged=(costs.paths | costs.prefix) @ costs.macs,
        default=run.configurations.index(default),
    )
    return candidates, seen.keys


def _refuse(settings: SearchSettings, images: int, candidates: int) -> None:
    """Raise UserError where there is too little to search."""
    if images < FEWEST:
        raise UserError(
            f"{settings.run} has {images} label images, too few to search on one half and to promise on the other: at least "
            f"{FEWEST}, better a thousand; run oracle.run with more --images"
        )
    if candidates < settings.size:
        raise UserError(
            f"{settings.run} ran {candidates} configurations, fewer than --size {settings.size}: run oracle.run with a "
            "larger --space, or ask for fewer"
        )


def _correct(label: xr.Dataset, seen: Observations) -> np.ndarray:
    """(N, C) bool of the images that were seen, in their order."""
    position = {str(key): row for row, key in enumerate(label["image"].values)}
    rows = [position[str(key)] for key in seen.keys]
    wanted = label[["predicted", "label"]]
    right = np.concatenate([(part["predicted"] == part["label"]).values for part in blocks(wanted)])
    return np.asarray(right[rows])


def search_candidates(settings: SearchSettings, candidates: Candidates, ids: list[str]) -> dict[str, Any]:
    """Search on one half of the images and say what is reached on the other, JSON-ready.

    Args:
        settings: size, limit, probe, seed.
        candidates: all label images.
        ids: of the columns.
    """
    began = time.perf_counter()
    first, other = candidates.halves(settings.seed)
    useful = first.useful(settings.size)
    first, other, ids, count = first.among(useful), other.among(useful), [ids[column] for column in useful], len(ids)
    probe = Probe(name=settings.probe, seed=settings.seed)
    limit = None if settings.max_macs is None else settings.max_macs * float(candidates.macs[candidates.default])
    _say(
        f"searching {len(ids)} of {count} candidates, without those that are seldom right, for {settings.size} on "
        f"{len(first)} label images, probe: {settings.probe}; {len(other)} others are for the promise"
    )
    with tqdm(
        total=steps_of(settings.probe, settings.size), desc="search", unit="step", mininterval=0, file=sys.stderr
    ) as progress:
        scores = probe.held_out(first, progress.update)
        found = search_portfolio(first, scores, settings.size, limit, progress.update)
    static = _best_static(first, limit)
    union = priced(first, scores, choose_portfolio(first.correct, first.macs, first.default, settings.size), limit)
    chosen = reached(probe, first, other, found.columns, found.price)
    rows = [
        _row("default", _static(other, other.default), other, static),
        _row(f"best static: {ids[static]}", _static(other, static), other, static),
        _row("portfolio by the oracle's union", reached(probe, first, other, union.columns, union.price), other, static),
        _row("portfolio by what can be learned", chosen, other, static),
        _row("its oracle", _oracle(other, found.columns), other, static),
    ]
    seconds = time.perf_counter() - began
    gain = chosen.right.astype(np.int8) - other.correct[:, static].astype(np.int8)
    least = float(lower_bounds(gain[None], 1 - CONFIDENCE)[0])
    return {
        "portfolio": [ids[column] for column in found.columns],
        "size": settings.size,
        "candidates": count,
        "useful": len(ids),
        "label_images": {"searched_on": len(first), "promised_on": len(other)},
        "probe": settings.probe,
        "max_macs": settings.max_macs,
        "gain": {"value": float(gain.mean()), "at_least": least, "confidence": CONFIDENCE},
        "hoped": {"accuracy": found.accuracy, "gmacs": found.macs / 1e9},
        "rows": rows,
        "cost": {"seconds": round(seconds, 1), "fits": probe.fits, "portfolios": found.tried},
    }


def _best_static(first: Candidates, limit: float | None) -> int:
    """The column that is right most often, of those that cost no more than the limit."""
    kept = np.flatnonzero(first.macs <= (np.inf if limit is None else limit))
    return int(kept[single_best(first.correct[:, kept], first.macs[kept])])


def _static(images: Candidates, column: int) -> Reached:
    return Reached(right=images.correct[:, column], macs=np.full(len(images), images.macs[column]))


def _oracle(images: Candidates, columns: tuple[int, ...]) -> Reached:
    """The cheapest column that is right, else the cheapest."""
    kept = np.array(columns)
    order = kept[cost_order(images.macs[kept])]
    picked = order[np.argmax(images.correct[:, order], axis=1)]
    return Reached(right=np.asarray(images.correct[:, kept].any(axis=1)), macs=images.macs[picked])


def _row(name: str, found: Reached, images: Candidates, static: int) -> dict[str, Any]:
    difference = found.right.astype(np.float64) - images.correct[:, static]
    interval = percentile_interval(resampled_means(difference, draw_resamples(len(images))))
    return {
        "name": name,
        "accuracy": float(found.right.mean()),
        "gmacs": float(found.macs.mean() / 1e9),
        "versus_static": {"value": float(difference.mean()), "interval": list(interval)},
    }


def rows_of(result: Mapping[str, Any]) -> list[list[str]]:
    """The table."""
    return [
        [row["name"], f"{row['accuracy']:.1%}", f"{1000 * row['gmacs']:.1f}", difference_text(row["versus_static"])]
        for row in result["rows"]
    ]


def sentences_of(result: Mapping[str, Any]) -> list[str]:
    """What is promised, how sure that is, and what the search cost."""
    gain, cost, images = result["gain"], result["cost"], result["label_images"]["promised_on"]
    value, least = 100 * gain["value"], 100 * gain["at_least"]
    said = f"Choosing among it gains {value:+.1f} points on the best static configuration"
    if least > 0:
        promise = f"{said}, at least {least:.1f} with {gain['confidence']:.0%} confidence."
    elif value > 0:
        needed = ceil(images * ((value - least) / value) ** 2)
        promise = f"{said}, which may be luck: about {2 * max(needed, images)} label images would tell."
    else:
        promise = f"{said}: nothing that can be learned from these images was found."
    return [
        promise,
        f"On the half that was searched it had seemed {result['hoped']['accuracy']:.1%}, as the best of many does.",
        f"Cost: {cost['seconds']:.1f} s for {cost['fits']} fits and {cost['portfolios']} portfolios"
        + (f", and {cost['observing_seconds']:.1f} s to look at the images." if "observing_seconds" in cost else "."),
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr)
