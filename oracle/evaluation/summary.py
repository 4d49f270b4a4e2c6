"""``summary.json``: every number of every table and the data behind every figure; and ``labels.parquet``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dynamic.configuration import Configuration, Space, varied
from dynamic.errors import UserError
from dynamic.files import write_whole
from oracle.data.sources import SPLITS
from oracle.evaluation import bounds
from oracle.evaluation.chance import no_better_than_chance

PORTFOLIO_SIZE = 32

UNITS = {
    "accuracy": "fraction of the split's readable images",
    "intervals": "95 % Wilson interval of a fraction",
    "macs": "multiply-accumulates an image (one multiply-add = 1), convolutions and linear layers",
    "unique_predictions": "share of images on which all configurations together predict so many different classes",
    "flow": "images whose preferred configuration takes the first option in one layer and the second in the next",
}


def summarise(outcomes: xr.Dataset, spaces: list[Space], default: Configuration) -> dict[str, Any]:
    """All numbers of a run.

    Constants (single best, portfolio) are chosen on the label split and reported on both.

    Args:
        outcomes: of the run, as :func:`oracle.outcomes.read_outcomes` gives them.
        spaces: studied; their configurations must be among the outcomes' columns.
        default: the configuration the network was built with.

    Returns:
        JSON-ready; see ``units`` in it.
    """
    facts = {key: value for key, value in outcomes.attrs.items() if key not in ("unreadable", "identity")}
    return {
        "run": facts | {"default": default.id},
        "units": UNITS,
        "unreadable": {"count": len(outcomes.attrs["unreadable"]), "images": outcomes.attrs["unreadable"]},
        "warnings": _warnings(outcomes, default),
        "non_finite_share": float((outcomes["predicted"].values < 0).mean()),
        "spaces": {space.name: _summarise_space(outcomes.sel(configuration=space.ids), space, default) for space in spaces},
    }


def _warnings(outcomes: xr.Dataset, default: Configuration) -> list[str]:
    """What a reader should know before believing any number; the default's accuracy is looked at on all images."""
    predicted = outcomes["predicted"].sel(configuration=default.id).values
    chance = no_better_than_chance(predicted, outcomes["label"].values, int(outcomes.attrs["classes"]))
    if chance is None:
        return []
    order = "" if outcomes.attrs["stand_in"] else ", or labels may be in another order than its classes: --class-map"
    return [f"{chance}: the weights may be untrained or another task's{order}"]


def _summarise_space(outcomes: xr.Dataset, space: Space, default: Configuration) -> dict[str, Any]:
    macs = outcomes["macs"].values
    cheapest = space[int(bounds.cost_order(macs)[0])].id
    label = _split_arrays(outcomes, "label")
    best = bounds.single_best(label[1], macs)
    portfolio = bounds.greedy_portfolio(label[1], macs, PORTFOLIO_SIZE)
    result: dict[str, Any] = {"configurations": len(space), "digest": space.digest, "cheapest": cheapest}
    for split in SPLITS:
        result[split] = _summarise_split(_split_arrays(outcomes, split), macs, space, default, best, portfolio)
    return result


def _split_arrays(outcomes: xr.Dataset, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(predicted, correct, quality) of one split. Raises UserError where it has no images."""
    part = outcomes.isel(image=outcomes["split"].values == split)
    if not part.sizes["image"]:
        raise UserError(f"no readable image in the {split} split: nothing to report on")
    predicted, labels = part["predicted"].values, part["label"].values
    return predicted, predicted == labels[:, None], bounds.quality(predicted, part["p_true"].values, labels)


def _summarise_split(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    macs: np.ndarray,
    space: Space,
    default: Configuration,
    best: int,
    portfolio: list[int],
) -> dict[str, Any]:
    predicted, correct, qualities = arrays
    reached = bounds.cases(qualities, correct)
    choice = bounds.oracle_choice(qualities, correct, macs)
    preferred = bounds.preferred(qualities, macs)
    solvable = correct.any(axis=1)
    cheapest = bounds.cheapest_correct(correct, macs)
    static = correct[:, space.ids.index(default.id)]
    hits = {
        "static": static,
        "worst": reached.worst,
        "median": reached.median,
        "best": reached.best,
        "single_best": correct[:, best],
    }
    unique, counts = np.unique(bounds.unique_predictions(predicted), return_counts=True)
    fewest = int(bounds.cost_order(macs)[0])
    return {
        "images": len(correct),
        **{name: float(right.mean()) for name, right in hits.items() if name != "single_best"},
        "single_best": {"id": space[best].id, "accuracy": float(correct[:, best].mean()), "chosen_on": "label"},
        "unsolvable_share": float(1 - solvable.mean()),
        "intervals": {name: bounds.interval(right) for name, right in hits.items()}
        | {"unsolvable_share": bounds.interval(np.logical_not(solvable))},
        "unique_predictions": {
            str(number): float(count / len(correct)) for number, count in zip(unique, counts, strict=True)
        },
        "portfolio": [
            {"size": size + 1, "configuration": space[position].id, "accuracy": accuracy}
            for size, (position, accuracy) in enumerate(
                zip(portfolio, bounds.portfolio_curve(correct, portfolio), strict=True)
            )
        ],
        "portfolio_chosen_on": "label",
        "macs": {
            "default": int(macs[space.ids.index(default.id)]),
            "single_best": int(macs[best]),
            "oracle": float(macs[choice].mean()),
            "cheapest_correct": float(macs[np.where(solvable, cheapest, fewest)].mean()),
            "cheapest": int(macs[fewest]),
            "costliest": int(macs.max()),
        },
        "preferred": _preferences(preferred[solvable], space),
        "static_configurations": {
            "accuracy": [round(float(share), 6) for share in correct.mean(axis=0)],
            "macs": macs.tolist(),
        },
    }


def _preferences(preferred: np.ndarray, space: Space) -> dict[str, Any]:
    """How often each option is preferred in each layer, and the flow between layers (paper, Fig. 1); solvable images."""
    configurations = list(space)
    layers = len(configurations[0].stride)
    names = varied(configurations)
    # One label a layer: the options of all varied attributes, as "2" or "2/3".
    labels = np.array(
        [["/".join(f"{c.options(name)[i]:g}" for name in names) for i in range(layers)] for c in configurations]
    )
    taken = labels[preferred]
    flow = []
    for layer in range(layers - 1):
        pairs, counts = np.unique(taken[:, layer : layer + 2], axis=0, return_counts=True)
        flow.append([[str(a), str(b), int(n)] for (a, b), n in zip(pairs, counts, strict=True)])
    options = [
        {str(o): int(n) for o, n in zip(*np.unique(taken[:, i], return_counts=True), strict=True)} for i in range(layers)
    ]
    return {
        "attributes": names,
        "options": [sorted(set(labels[:, i]), key=_numeric) for i in range(layers)],
        "counts": options,
        "flow": flow,
    }


def _numeric(label: str) -> tuple[float, ...]:
    return tuple(map(float, label.split("/")))


def make_labels(outcomes: xr.Dataset, spaces: list[Space], default: Configuration) -> pd.DataFrame:
    """One row an image: what a selector learns from.

    Columns ``preferred``, ``quality``, ``preferred_macs``, ``solvable``, ``cheapest_correct`` (None where unsolvable) and
    ``cheapest_correct_macs`` are over all configurations of the run; with several spaces, each has its own columns too,
    ``<space>.preferred`` and so on. ``oracle`` is what the oracle
    runs: the preferred, or the cheapest of all where unsolvable. ``default_correct`` is the static network's.
    """
    frame = pd.DataFrame({name: outcomes[name].values for name in ("image", "split", "label")})
    known = {"image", "split", "label", "status"} | {v for v in outcomes.coords if outcomes[v].dims != ("image",)}
    for name in outcomes.coords:
        if name not in known:
            frame[str(name)] = outcomes[name].values
    labels = outcomes["label"].values
    frame["default_correct"] = outcomes["predicted"].sel(configuration=default.id).values == labels
    columns = [("", list(outcomes["configuration"].values))]
    if len(spaces) > 1:
        columns += [(f"{space.name}.", space.ids) for space in spaces]
    for prefix, ids in columns:
        part = outcomes.sel(configuration=ids)
        predicted, macs = part["predicted"].values, part["macs"].values
        correct = predicted == labels[:, None]
        qualities = bounds.quality(predicted, part["p_true"].values, labels)
        preferred, cheapest = bounds.preferred(qualities, macs), bounds.cheapest_correct(correct, macs)
        names = np.array(ids, dtype=object)
        frame[f"{prefix}preferred"] = names[preferred]
        frame[f"{prefix}quality"] = qualities[np.arange(len(labels)), preferred]
        frame[f"{prefix}preferred_macs"] = macs[preferred]
        frame[f"{prefix}solvable"] = correct.any(axis=1)
        frame[f"{prefix}oracle"] = names[bounds.oracle_choice(qualities, correct, macs)]
        frame[f"{prefix}cheapest_correct"] = [names[position] if position >= 0 else None for position in cheapest]
        frame[f"{prefix}cheapest_correct_macs"] = np.where(cheapest >= 0, macs[cheapest], -1)
    return frame


def write_labels(frame: pd.DataFrame, path: Path) -> None:
    """Write ``labels.parquet``."""
    write_whole(path, frame.to_parquet(index=False))
