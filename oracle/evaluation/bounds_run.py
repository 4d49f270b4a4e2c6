"""Exact bounds of a run's test split, region by region, here or on a Ray cluster; what an interruption left is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dynamic.configuration import Space
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.integrity import read_record, write_record
from oracle.evaluation.collect import Collection, store_identity, walk_size
from oracle.evaluation.doing import done
from oracle.evaluation.estimates import resampled, share
from oracle.evaluation.evaluate import WalkSize
from oracle.evaluation.exact_bounds import Bounds, BoundsJob, Order, greedy_order
from oracle.evaluation.jobs import Task
from oracle.outcomes import compare_identity

PILOT = 16
"""Images evaluated in full to learn the order; at most a tenth of all."""


def run_bounds(collection: Collection) -> dict[str, Any]:
    """Exact bounds on the test split: ``bounds.parquet``, ``bounds.json``, ``bounds.html``; resumes from ``bounds/``.

    Raises:
        UserError: the folder holds another run's bounds.
    """
    settings, network, source = collection.settings, collection.network, collection.source
    folder = collection.run.bounds
    folder.mkdir(parents=True, exist_ok=True)
    _check_identity(folder / "identity.json", store_identity(collection))
    learned = [_learned(collection, space, folder) for space in collection.spaces]
    _fill(collection, [job for job, _ in learned], folder)
    result: dict[str, Any] = {"images": 0, "spaces": {}}
    frames = []
    for space, (_, pilot) in zip(collection.spaces, learned, strict=True):
        frame = pd.concat([pd.read_parquet(_file(folder, space, start)) for start in _starts(collection)], ignore_index=True)
        if frame.empty:
            raise UserError("no readable image in the test split: nothing to report on")
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


def _starts(collection: Collection) -> range:
    return range(0, len(collection.source.keys), collection.settings.region)


def _file(folder: Path, space: Space, start: int) -> Path:
    return folder / f"{space.name}-{start:07d}.parquet"


def _fill(collection: Collection, jobs: Sequence[BoundsJob], folder: Path) -> None:
    """Find the bounds of regions that are not stored, of all spaces, here or on a Ray cluster, and store them."""
    settings, network, source = collection.settings, collection.network, collection.source
    tasks = []
    for job in jobs:
        missing = [start for start in _starts(collection) if not _file(folder, job.configurations, start).exists()]
        regions = [np.arange(start, min(start + settings.region, len(source.keys))) for start in missing]
        tasks.append(Task(settings=settings, network=network, source=source, job=job, regions=regions))
    total = len(jobs) * len(source.keys)
    left = sum(len(rows) for task in tasks for rows in task.regions)
    what = f"bounds of {', '.join(space.name for space in collection.spaces)}"
    with (
        tqdm(total=total, initial=total - left, desc=what, unit="image", file=sys.stderr) as progress,
        closing(done(tasks, settings, progress)) as regions_done,
    ):
        for position, result in regions_done:
            for key, reason in result.problems.items():
                progress.write(f"left out {key}: {reason}", file=sys.stderr)
            frame = _frame(collection, jobs[position].configurations, result)
            write_whole(_file(folder, jobs[position].configurations, int(result.rows[0])), frame.to_parquet(index=False))
            progress.update(len(result.rows))


def _frame(collection: Collection, space: Space, result: Bounds) -> pd.DataFrame:
    """One row a readable image."""
    kept, found = result.rows[result.readable], result.found
    macs = collection.network.costs.of_space(list(space), collection.source.resolution)
    keys = collection.source.keys[kept]
    frame = pd.DataFrame({"image": keys, "static": found.static, "worst": found.worst, "best": found.best})
    for name in ("as_default", "as_best"):
        columns = getattr(found, name)
        frame[name] = [space.ids[i] for i in columns]
        frame[f"{name}_macs"] = macs[columns]
    frame["macs_spent"] = found.macs / max(len(kept), 1)  # of the region, spread over its images
    return frame


def _learned(collection: Collection, space: Space, folder: Path) -> tuple[BoundsJob, int]:
    """How a space is searched, from the file of an interrupted run or a pilot in this process, and the MACs that it cost."""
    settings, network, source = collection.settings, collection.network, collection.source
    path = folder / f"{space.name}-order.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    size = WalkSize(**stored["walk"]) if "walk" in stored else walk_size(collection, collection.union)
    job = BoundsJob(
        configurations=space,
        size=size,
        threads=torch.get_num_threads(),
        dtype=settings.dtype,
        order=Order(stored.get("best", []), stored.get("worst", [])),
    )
    if stored:
        return job, stored["macs"]
    macs = network.costs.of_space(list(space), source.resolution)
    images, everything = len(source.keys), list(range(len(space)))
    rows = np.arange(max(1, min(PILOT, images // 10)))
    batch = source.load(rows)
    labels = source.labels[rows[batch.readable]]
    run = job.runner(network, source, settings.device)(rows, batch)
    correct = run(np.arange(len(labels)), everything) == labels[:, None]
    order = Order(greedy_order(correct, macs), greedy_order(~correct, macs))
    spent = len(labels) * network.costs.shared(list(space), source.resolution)
    kept = {"best": order.best, "worst": order.worst, "macs": spent, "walk": asdict(size)}
    write_whole(path, json.dumps(kept).encode())
    return replace(job, order=order), spent


def _summarise(frame: pd.DataFrame, space: Space, default_macs: int) -> dict[str, Any]:
    result: dict[str, Any] = {"configurations": len(space), "default_macs": default_macs}
    result |= {name: share(frame[name].to_numpy()) for name in ("static", "worst", "best")}
    for name in ("as_default", "as_best"):
        result[f"{name}_macs"] = resampled(np.mean, frame[f"{name}_macs"].to_numpy(dtype=float))
    return result
