"""Worst and best case and the efficient variants of section 4.6, exactly, without evaluating the whole matrix.

An image is done for the best case at its first right configuration, for the worst case at its first wrong one, and for the
cheapest agreeing configuration at the first match in order of MACs. Undecided images go through the configurations in waves
of 1, 2, 4, ... configurations, each wave one walk that shares prefixes. The order is learned on a pilot of a few images,
which are evaluated in full: greedily, the configuration that decides most images a MAC comes first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.integrity import read_record, write_record
from dynamic.network import DynamicNetwork
from dynamic.walk import walkers
from oracle.evaluation import bounds
from oracle.evaluation.collect import Collection, store_identity, walk_size
from oracle.evaluation.estimates import resampled, share
from oracle.evaluation.evaluate import WalkSize, outcomes_of
from oracle.outcomes import compare_identity
from oracle.settings import DTYPES

PILOT = 16
"""Images evaluated in full to learn the order; at most a tenth of all."""

_UNKNOWN = -2

Run = Callable[[np.ndarray, Sequence[int]], np.ndarray]
"""Rows and columns to predicted classes, (rows, columns)."""


@dataclass
class Order:
    """In which order configurations are tried, as columns."""

    best: list[int]
    worst: list[int]


@dataclass(frozen=True)
class Found:
    """Exact results of some images; (images,) each. Configurations are columns.

    Attributes:
        static, worst, best: whether default, worst and best case are right.
        as_default: the cheapest configuration that predicts what the default does.
        as_best: the cheapest that is right; the cheapest of all where none is.
        macs: multiply-accumulates spent on these images together.
    """

    static: np.ndarray
    worst: np.ndarray
    best: np.ndarray
    as_default: np.ndarray
    as_best: np.ndarray
    macs: int


def greedy_order(decides: np.ndarray, macs: np.ndarray) -> list[int]:
    """Columns, those first that decide most images a MAC that none before them did; again from the start once all are.

    Args:
        decides: (images, configurations) bool.
        macs: (configurations,) of one image.
    """
    left = [int(i) for i in bounds.cost_order(macs)]
    undecided = np.ones(len(decides), bool)
    ordered: list[int] = []
    while left:
        gains = decides[undecided][:, left].sum(axis=0) / macs[left]
        position = int(np.argmax(gains))
        if gains[position] == 0:
            if undecided.all():  # what remains decides nothing
                return ordered + left
            undecided[:] = True
            continue
        column = left.pop(position)
        ordered.append(column)
        undecided &= ~decides[:, column]
    return ordered


def find_bounds(
    run: Run, labels: np.ndarray, macs: np.ndarray, default: int, order: Order, cost: Callable[[Sequence[int]], int]
) -> Found:
    """Exact bounds of some images, running as little as the order allows.

    Args:
        run: evaluates some of the images under some columns.
        labels: (images,) true classes.
        macs: (configurations,) of one image.
        default: its column.
        order: in which configurations are tried.
        cost: MACs of one image under some columns together.
    """
    images, columns = len(labels), len(macs)
    predicted = np.full((images, columns), _UNKNOWN, np.int64)
    spent = 0

    def evaluate(rows: np.ndarray, wanted: Sequence[int]) -> None:
        nonlocal spent
        # Rows that already know a column run it again only if others of the wave need it: one walk for all.
        new = [column for column in wanted if (predicted[rows, column] == _UNKNOWN).any()]
        rows = rows[(predicted[np.ix_(rows, np.array(new, int))] == _UNKNOWN).any(axis=1)]
        if len(rows) and new:
            predicted[np.ix_(rows, np.array(new, int))] = run(rows, new)
            spent += len(rows) * cost(new)

    def search(ordered: Sequence[int], undecided: Callable[[Sequence[int]], np.ndarray]) -> None:
        """Try ``ordered`` in waves; ``undecided`` tells, from the columns tried so far, which rows go on."""
        start, size = 0, 1
        while start < len(ordered) and len(rows := np.flatnonzero(undecided(ordered[:start]))):
            evaluate(rows, ordered[start : start + size])
            start, size = start + size, 2 * size

    everyone = np.arange(images)
    evaluate(everyone, [default])
    search(order.best, lambda _: ~(predicted == labels[:, None]).any(axis=1))
    best = (predicted == labels[:, None]).any(axis=1)
    search(order.worst, lambda _: ~((predicted != _UNKNOWN) & (predicted != labels[:, None])).any(axis=1))
    worst = (predicted == labels[:, None]).all(axis=1)
    cheap = [int(i) for i in bounds.cost_order(macs)]

    def cheapest_match(target: np.ndarray, matchable: np.ndarray) -> np.ndarray:
        search(cheap, lambda tried: matchable & ~(predicted[:, list(tried)] == target[:, None]).any(axis=1))
        matches = predicted[:, cheap] == target[:, None]
        return np.where(matches.any(axis=1), np.array(cheap)[np.argmax(matches, axis=1)], cheap[0])

    return Found(
        static=predicted[:, default] == labels,
        worst=worst,
        best=best,
        as_default=cheapest_match(predicted[:, default].copy(), everyone >= 0),
        as_best=cheapest_match(labels, best),
        macs=spent,
    )


def run_bounds(collection: Collection) -> dict[str, Any]:
    """Exact bounds on the test split: ``bounds.parquet``, ``bounds.json``, ``bounds.html``; resumes from ``bounds/``.

    Raises:
        UserError: the folder holds another run's bounds.
    """
    settings, network, source = collection.settings, collection.network, collection.source
    folder = collection.run.bounds
    folder.mkdir(parents=True, exist_ok=True)
    _check_identity(folder / "identity.json", store_identity(collection))
    size = walk_size(collection, collection.union)
    fast = network.for_inference(settings.device, DTYPES[settings.dtype])
    result: dict[str, Any] = {"images": 0, "spaces": {}}
    frames = []
    for space in collection.spaces:
        frame, pilot = _space_bounds(collection, fast, space, size, folder)
        comprehensive = len(frame) * network.costs.shared(list(space), source.resolution)
        result["images"], result["unreadable"] = len(frame), len(source.keys) - len(frame)
        spent = float(frame["macs_spent"].sum()) + pilot
        result["spaces"][space.name] = _summarise(frame, space, network.macs(network.default, source.resolution)) | {
            "macs_spent": spent,
            "macs_comprehensive": comprehensive,
            "macs_saved": 1 - spent / comprehensive,
        }
        frames.append(frame.assign(space=space.name))
    together = result["images"] * network.costs.shared(list(collection.union), source.resolution)
    spent = sum(found["macs_spent"] for found in result["spaces"].values())
    result |= {"macs_spent": spent, "macs_comprehensive": together, "macs_saved": 1 - spent / together}
    write_whole(settings.out / "bounds.parquet", pd.concat(frames).to_parquet(index=False))
    write_whole(settings.out / "bounds.json", json.dumps(result, indent=1).encode())
    return result


def _check_identity(path: Path, identity: dict[str, str]) -> None:
    if not path.exists():
        write_record(path, identity)
    else:
        compare_identity(path.parent.parent, read_record(path), identity)


def _space_bounds(
    collection: Collection, fast: DynamicNetwork, space: Space, size: WalkSize, folder: Path
) -> tuple[pd.DataFrame, int]:
    """One row a readable image, and the pilot's MACs; regions that are stored are not run again."""
    settings, source = collection.settings, collection.source
    costs, pool = collection.network.costs, walkers(size.walks)
    macs = costs.of_space(list(space), source.resolution)
    default = space.ids.index(collection.network.default.id)

    def cost(columns: Sequence[int]) -> int:
        return costs.shared([space[i] for i in columns], source.resolution)

    def load(rows: np.ndarray) -> tuple[Run, np.ndarray, np.ndarray]:
        batch = source.load(rows)
        kept = rows[batch.readable]
        images = batch.images[torch.from_numpy(batch.readable)]
        images = images.to(settings.device, DTYPES[settings.dtype], memory_format=torch.channels_last)
        labels = torch.from_numpy(source.labels[kept]).to(settings.device)

        def run(chosen: np.ndarray, columns: Sequence[int]) -> np.ndarray:
            wanted: list[Configuration] = [space[i] for i in columns]
            index = torch.from_numpy(chosen).to(settings.device)
            parts = index.tensor_split(max(min(size.walks, len(index)), -(-len(index) // size.images)))

            def evaluated(part: torch.Tensor) -> np.ndarray:
                return outcomes_of(fast, images[part], labels[part], wanted, size.rows)[0]

            return np.concatenate(list(pool.map(evaluated, parts)))

        for key, reason in batch.problems.items():
            tqdm.write(f"left out {key}: {reason}", file=sys.stderr)
        return run, kept, source.labels[kept]

    starts = range(0, len(source.keys), settings.region)
    parts = []
    order, pilot = _learn_order(load, macs, len(source.keys), folder / f"{space.name}-order.json", cost)
    for start in tqdm(starts, desc=f"bounds of {space.name}", unit="region", file=sys.stderr):
        path = folder / f"{space.name}-{start:07d}.parquet"
        if not path.exists():
            run, kept, labels = load(np.arange(start, min(start + settings.region, len(source.keys))))
            found = find_bounds(run, labels, macs, default, order, cost)
            frame = pd.DataFrame(
                {"image": source.keys[kept], "static": found.static, "worst": found.worst, "best": found.best}
            )
            for name in ("as_default", "as_best"):
                columns = getattr(found, name)
                frame[name] = [space.ids[i] for i in columns]
                frame[f"{name}_macs"] = macs[columns]
            frame["macs_spent"] = found.macs / max(len(kept), 1)  # of the region, spread over its images
            write_whole(path, frame.to_parquet(index=False))
        parts.append(pd.read_parquet(path))
    pool.shutdown()
    frame = pd.concat(parts, ignore_index=True)
    if frame.empty:
        raise UserError("no readable image in the test split: nothing to report on")
    return frame, pilot


def _learn_order(
    load: Callable[[np.ndarray], tuple[Run, np.ndarray, np.ndarray]],
    macs: np.ndarray,
    images: int,
    path: Path,
    cost: Callable[[Sequence[int]], int],
) -> tuple[Order, int]:
    """The order, from the file of an interrupted run or a pilot, and the MACs that it cost."""
    if path.exists():
        stored = json.loads(path.read_text())
        return Order(stored["best"], stored["worst"]), stored["macs"]
    run, kept, labels = load(np.arange(max(1, min(PILOT, images // 10))))
    everything = list(range(len(macs)))
    correct = run(np.arange(len(kept)), everything) == labels[:, None]
    order = Order(greedy_order(correct, macs), greedy_order(~correct, macs))
    spent = len(kept) * cost(everything)
    write_whole(path, json.dumps({"best": order.best, "worst": order.worst, "macs": spent}).encode())
    return order, spent


def _summarise(frame: pd.DataFrame, space: Space, default_macs: int) -> dict[str, Any]:
    result: dict[str, Any] = {"configurations": len(space), "default_macs": default_macs}
    result |= {name: share(frame[name].to_numpy()) for name in ("static", "worst", "best")}
    for name in ("as_default", "as_best"):
        result[f"{name}_macs"] = resampled(np.mean, frame[f"{name}_macs"].to_numpy(dtype=float))
    return result
