"""``summary.json``: every number of every table and the data behind every figure; and ``labels.parquet``."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
from oracle.outcomes import BLOCK, blocks

PORTFOLIO_SIZE = 32

UNITS = {
    "accuracy": "fraction of the split's readable images",
    "intervals": "95 % Wilson interval of a fraction",
    "macs": "multiply-accumulates an image (one multiply-add = 1), convolutions and linear layers",
    "unique_predictions": "share of images on which all configurations together predict so many different classes",
    "flow": "images whose preferred configuration takes the first option in one layer and the second in the next",
}


def summarise(outcomes: xr.Dataset, spaces: list[Space], default: Configuration, images: int = BLOCK) -> dict[str, Any]:
    """All numbers of a run, whose outcomes are read once, block by block.

    Constants (single best, portfolio) are chosen on the label split and reported on both.

    Args:
        outcomes: of the run, as :func:`oracle.outcomes.open_outcomes` or :func:`oracle.outcomes.read_outcomes` gives them.
        spaces: studied; their configurations must be among the outcomes' columns.
        default: the configuration the network was built with.
        images: of a block; changes nothing but memory and time.

    Returns:
        JSON-ready; see ``units`` in it.
    """
    macs = dict(zip(map(str, outcomes["configuration"].values), outcomes["macs"].values, strict=True))
    judged, non_finite = dict[str, dict[str, _Judged]](), 0
    for split in SPLITS:
        judged[split], wrong = _judge(outcomes, spaces, split, images)
        non_finite += wrong
    facts = {key: value for key, value in outcomes.attrs.items() if key not in ("unreadable", "identity")}
    return {
        "run": facts | {"default": default.id},
        "units": UNITS,
        "unreadable": {"count": len(outcomes.attrs["unreadable"]), "images": outcomes.attrs["unreadable"]},
        "warnings": _warnings(outcomes, default),
        "non_finite_share": non_finite / outcomes["predicted"].size,
        "spaces": {
            space.name: _summarise_space(
                {split: judged[split][space.name] for split in SPLITS},
                np.array([macs[name] for name in space.ids]),
                space,
                default,
            )
            for space in spaces
        },
    }


def _warnings(outcomes: xr.Dataset, default: Configuration) -> list[str]:
    """What a reader should know before believing any number; the default's accuracy is looked at on all images."""
    predicted = outcomes["predicted"].sel(configuration=default.id).values
    chance = no_better_than_chance(predicted, outcomes["label"].values, int(outcomes.attrs["classes"]))
    if chance is None:
        return []
    order = "" if outcomes.attrs["stand_in"] else ", or labels may be in another order than its classes: --class-map"
    return [f"{chance}: the weights may be untrained or another task's{order}"]


@dataclass(frozen=True)
class _Judged:
    """What is known of some images under one space, whose best case a portfolio has yet to reach.

    Attributes:
        correct: (images, configurations) bool.
        worst, median, best: (images,) bool, as :func:`bounds.cases` gives them.
        preferred, oracle, cheapest: (images,) columns.
        unique: (images,) how many classes are predicted.
    """

    correct: np.ndarray
    worst: np.ndarray
    median: np.ndarray
    best: np.ndarray
    preferred: np.ndarray
    oracle: np.ndarray
    cheapest: np.ndarray
    unique: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, p_true: np.ndarray, labels: np.ndarray, macs: np.ndarray) -> _Judged:
        correct, qualities = predicted == labels[:, None], bounds.quality(predicted, p_true, labels)
        reached = bounds.cases(qualities, correct)
        return cls(
            correct,
            reached.worst,
            reached.median,
            reached.best,
            bounds.preferred(qualities, macs),
            bounds.oracle_choice(qualities, correct, macs),
            bounds.cheapest_correct(correct, macs),
            bounds.unique_predictions(predicted),
        )

    @classmethod
    def together(cls, parts: list[_Judged]) -> _Judged:
        """The same of all their images."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))


def _judge(outcomes: xr.Dataset, spaces: list[Space], split: str, images: int) -> tuple[dict[str, _Judged], int]:
    """One split by space, read block by block; and how many predictions of it were not finite numbers.

    What is kept is a byte for each outcome. Raises UserError where the split has no images.
    """
    part = outcomes.isel(image=outcomes["split"].values == split)
    if not part.sizes["image"]:
        raise UserError(f"no readable image in the {split} split: nothing to report on")
    places = {str(name): place for place, name in enumerate(outcomes["configuration"].values)}
    columns = {space.name: np.array([places[name] for name in space.ids]) for space in spaces}
    macs, judged, non_finite = outcomes["macs"].values, {space.name: list[_Judged]() for space in spaces}, 0
    for block in blocks(part, images):
        predicted, p_true, labels = (block[name].values for name in ("predicted", "p_true", "label"))
        non_finite += int((predicted < 0).sum())
        for name, chosen in columns.items():
            judged[name].append(_Judged.of(predicted[:, chosen], p_true[:, chosen], labels, macs[chosen]))
    return {name: _Judged.together(parts) for name, parts in judged.items()}, non_finite


def _summarise_space(judged: dict[str, _Judged], macs: np.ndarray, space: Space, default: Configuration) -> dict[str, Any]:
    cheapest = space[int(bounds.cost_order(macs)[0])].id
    correct = judged["label"].correct
    best, portfolio = bounds.single_best(correct, macs), bounds.greedy_portfolio(correct, macs, PORTFOLIO_SIZE)
    result: dict[str, Any] = {"configurations": len(space), "digest": space.digest, "cheapest": cheapest}
    for split in SPLITS:
        result[split] = _summarise_split(judged[split], macs, space, default, best, portfolio)
    return result


def _summarise_split(
    judged: _Judged, macs: np.ndarray, space: Space, default: Configuration, best: int, portfolio: list[int]
) -> dict[str, Any]:
    correct = judged.correct
    solvable = correct.any(axis=1)
    static = correct[:, space.ids.index(default.id)]
    hits = {
        "static": static,
        "worst": judged.worst,
        "median": judged.median,
        "best": judged.best,
        "single_best": correct[:, best],
    }
    unique, counts = np.unique(judged.unique, return_counts=True)
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
            "oracle": float(macs[judged.oracle].mean()),
            "cheapest_correct": float(macs[np.where(solvable, judged.cheapest, fewest)].mean()),
            "cheapest": int(macs[fewest]),
            "costliest": int(macs.max()),
        },
        "preferred": _preferences(judged.preferred[solvable], space),
        "static_configurations": {
            "accuracy": [round(float(share), 6) for share in correct.mean(axis=0)],
            "macs": macs.tolist(),
        },
    }


def _preferences(preferred: np.ndarray, space: Space) -> dict[str, Any]:
    """How often each option is preferred in each layer, and the flow between layers (paper, Fig. 1); solvable images."""
    configurations = list(space)
    layers = len(configurations[0].stride)
    names = varied(configurations) or ["stride"]  # of a network run statically, by itself
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


def make_labels(outcomes: xr.Dataset, spaces: list[Space], default: Configuration, images: int = BLOCK) -> pd.DataFrame:
    """One row an image: what a selector learns from. Outcomes are read once, block by block of so many ``images``.

    Columns ``preferred``, ``quality``, ``preferred_macs``, ``solvable``, ``cheapest_correct`` (None where unsolvable) and
    ``cheapest_correct_macs`` are over all configurations of the run; with several spaces, each has its own columns too,
    ``<space>.preferred`` and so on. ``oracle`` is what the oracle
    runs: the preferred, or the cheapest of all where unsolvable. ``default_correct`` is the static network's.
    """
    parts = [_labels_of(block, spaces, default) for block in blocks(outcomes, images)]
    return pd.concat(parts, ignore_index=True)


def _labels_of(outcomes: xr.Dataset, spaces: list[Space], default: Configuration) -> pd.DataFrame:
    """:func:`make_labels` of outcomes in memory."""
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
