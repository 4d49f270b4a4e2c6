"""The whole space on a few label images: which statistics serve it better, and which few configurations are worth more."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dynamic.configuration import Space
from dynamic.files import write_whole
from dynamic.models import LoadedNetwork
from dynamic.recalibration import can_recalibrate
from oracle.evaluation.collect import Collection, collect, open_collection, store_identity
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.portfolios import portfolio_of
from selector.policies.guarantee import CONFIDENCE, lower_bounds
from selector.scoring.curves import area
from selector.tuning.settings import TuneSettings


def searches(settings: TuneSettings, network: LoadedNetwork) -> tuple[list[Collection], str]:
    """What is to be evaluated: the space under the network's own statistics, and under recalibrated ones if wanted.

    Both see the same label images, the first ones, and no test image. The default keeps its own statistics in both, unless
    re-estimated ones serve the default itself better, by a paired 95 % interval: else choosing would be credited with what
    they bring without any choice.

    Returns:
        One or two, and what to say of the default; empty where nothing is.
    """
    own = _search(settings, network, "search")
    if not settings.recalibrate:
        return [own], ""
    if not can_recalibrate(network):
        return [own], "The network has no batch norms that can be recalibrated: it keeps its statistics."
    about = _default_is_raised(settings, network)
    statistics: dict[str, Any] = {"recalibrate": settings.recalibrate, "keep_default": not about}
    return [own, _search(settings, network, "search-recalibrated", **statistics)], about


def _search(
    settings: TuneSettings, network: LoadedNetwork, name: str, spaces: list[Space] | None = None, **statistics: Any
) -> Collection:
    """A set of a run's label images; unless given, of the settings' spaces."""
    images = min(settings.search_images, settings.run.images or settings.search_images)
    made = replace(settings.run, images=images, out=Run(settings.out).set(name).folder, **statistics)
    return open_collection(made, network, ("label",), spaces)


def _default_is_raised(settings: TuneSettings, network: LoadedNetwork) -> str:
    """By how much re-estimated statistics raise the default, in words; empty where they do not."""
    alone = [Space("default", [network.default])]
    own, made_anew = (
        _right(collect(_search(settings, network, name, alone, **statistics)))[:, 0]
        for name, statistics in (
            ("default", {}),
            ("default-recalibrated", {"recalibrate": settings.recalibrate, "keep_default": False}),
        )
    )
    gains = made_anew.astype(np.int8) - own.astype(np.int8)
    if lower_bounds(gains[None], 1 - CONFIDENCE)[0] <= 0:
        return ""
    return (
        f"Batch-norm statistics re-estimated on these images raise the default itself from {own.mean():.1%} to "
        f"{made_anew.mean():.1%} on {len(own)} label images, without any choice: where they are kept, the default has them."
    )


def search_key(settings: TuneSettings, network: LoadedNetwork, images: int) -> str:
    """Short hash of what the search of so many label images saw: network, space, pictures; more images change nothing."""
    identity = store_identity(_search(replace(settings, search_images=images), network, "search"))
    return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def search(collections: list[Collection], default: str) -> tuple[xr.Dataset, RunSettings, list[str]]:
    """Evaluate, and decide on the label split alone whether recalibrated statistics help.

    What decides is the mean accuracy over cost, from the cheapest configuration to the default, of the best static ones:
    what any policy has to choose from.

    Args:
        collections: as :func:`searches` made them.
        default: id of the default.

    Returns:
        The better outcomes, the settings that they were made with, and what to say.
    """
    found = [collect(collection) for collection in collections]
    reached = [_reached(outcomes, default) for outcomes in found]
    best = int(np.argmax(reached))  # the first where they are equal: the network's own
    said = []
    if len(found) > 1:
        kept = "re-estimated ones are kept" if best else "the network's own are kept"
        said.append(
            f"batch-norm statistics: up to the default's cost the best configurations reach {reached[0]:.1%} on average "
            f"with the network's own and {reached[1]:.1%} with re-estimated ones, on {found[0].sizes['image']} label "
            f"images: {kept}"
        )
    return found[best], collections[best].settings, said


def _reached(outcomes: xr.Dataset, default: str) -> float:
    macs = outcomes["macs"].values / 1e9
    accuracy = _right(outcomes).mean(axis=0)
    own = float(outcomes["macs"].sel(configuration=default)) / 1e9
    points = list(zip(macs.tolist(), accuracy.tolist(), strict=True))
    return area(points, float(macs.min()), own) if macs.min() < own else float(accuracy.max())


def _right(outcomes: xr.Dataset) -> np.ndarray:
    """(images, configurations) bool."""
    return np.asarray(outcomes["predicted"].values == outcomes["label"].values[:, None])


def write_portfolio(outcomes: xr.Dataset, network: LoadedNetwork, size: int, path: Path) -> list[str]:
    """The candidates, listed in a file as oracle.run --space takes it; returns their ids."""
    ids = [c.id for c in portfolio_of(outcomes, network.default, size)]
    write_whole(path, json.dumps(ids, indent=1).encode())
    return ids


def final_settings(settings: TuneSettings, recalibrate: int, keep_default: bool, portfolio: Path) -> RunSettings:
    """Of the run that is served: the candidates on all images, under the statistics that the search decided for."""
    return replace(settings.run, space=str(portfolio), recalibrate=recalibrate, keep_default=keep_default)
