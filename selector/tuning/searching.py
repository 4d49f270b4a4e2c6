"""The whole space on a few label images: which statistics serve it better, and which few configurations are worth more."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from dynamic.files import write_whole
from dynamic.models import LoadedNetwork
from dynamic.recalibration import can_recalibrate
from oracle.evaluation.collect import Collection, collect, open_collection
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.portfolios import portfolio_of
from selector.scoring.curves import area
from selector.tuning.settings import TuneSettings


def searches(settings: TuneSettings, network: LoadedNetwork) -> list[Collection]:
    """What is to be evaluated: the space under the network's own statistics, and under recalibrated ones if wanted.

    Both see the same label images, the first ones, and no test image.
    """
    found = [_search(settings, network, 0)]
    if settings.recalibrate and not can_recalibrate(network):
        print("the network has no batch norms that can be recalibrated: it keeps its statistics", file=sys.stderr)
    elif settings.recalibrate:
        found.append(_search(settings, network, settings.recalibrate))
    return found


def _search(settings: TuneSettings, network: LoadedNetwork, recalibrate: int) -> Collection:
    name = "search-recalibrated" if recalibrate else "search"
    made = replace(
        settings.run,
        images=min(settings.search_images, settings.run.images or settings.search_images),
        recalibrate=recalibrate,
        keep_default=recalibrate > 0,
        out=Run(settings.out).set(name).folder,
    )
    return open_collection(made, network, ("label",))


def search(collections: list[Collection], default: str) -> tuple[xr.Dataset, int, list[str]]:
    """Evaluate, and decide on the label split alone whether recalibrated statistics help.

    What decides is the mean accuracy over cost, from the cheapest configuration to the default, of the best static ones:
    what any policy has to choose from.

    Args:
        collections: as :func:`searches` made them.
        default: id of the default.

    Returns:
        The better outcomes, the images that their statistics were re-estimated on (0: the network's own), and what to say.
    """
    found = [collect(collection) for collection in collections]
    reached = [_reached(outcomes, default) for outcomes in found]
    best = int(np.argmax(reached))  # the first where they are equal: the network's own
    recalibrated = collections[best].settings.recalibrate
    said = []
    if len(found) > 1:
        kept = "re-estimated ones are kept" if recalibrated else "the network's own are kept"
        said.append(
            f"batch-norm statistics: up to the default's cost the best configurations reach {reached[0]:.1%} on average "
            f"with the network's own and {reached[1]:.1%} with re-estimated ones, on {found[0].sizes['image']} label "
            f"images: {kept}"
        )
    return found[best], recalibrated, said


def _reached(outcomes: xr.Dataset, default: str) -> float:
    macs = outcomes["macs"].values / 1e9
    accuracy = (outcomes["predicted"].values == outcomes["label"].values[:, None]).mean(axis=0)
    own = float(outcomes["macs"].sel(configuration=default)) / 1e9
    points = list(zip(macs.tolist(), accuracy.tolist(), strict=True))
    return area(points, float(macs.min()), own) if macs.min() < own else float(accuracy.max())


def write_portfolio(outcomes: xr.Dataset, network: LoadedNetwork, size: int, path: Path) -> list[str]:
    """The candidates, listed in a file as oracle.run --space takes it; returns their ids."""
    ids = [c.id for c in portfolio_of(outcomes, network.default, size)]
    write_whole(path, json.dumps(ids, indent=1).encode())
    return ids


def final_settings(settings: TuneSettings, recalibrate: int, portfolio: Path) -> RunSettings:
    """Of the run that is served: the candidates on all images; the default stays what it was."""
    return replace(settings.run, space=str(portfolio), recalibrate=recalibrate, keep_default=recalibrate > 0)
