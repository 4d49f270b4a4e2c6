"""Run a portfolio on every image of a run once and keep all that a policy could ask for: features and answers.

Kept in blocks of images, ``OUT/PORTFOLIO/0000000.safetensors`` and so on; an interrupted run goes on behind the
last whole block. Where they are of fewer images than the run has by now, only the others are observed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from dynamic.integrity import read_record, write_arrays, write_record
from oracle.data.digests import digest_of
from oracle.data.sources import SPLITS, ImageSource
from oracle.data.views import View, view_source
from oracle.evaluation.doing import done
from oracle.evaluation.evaluate import WalkSize
from oracle.evaluation.jobs import Task
from oracle.outcomes import compare_identity
from oracle.runs import Run
from oracle.settings import DTYPES, RunSettings
from selector.observation.costs import Costs
from selector.observation.earlier import IDENTITY, Earlier, block_file, set_aside
from selector.observation.features import VERSION
from selector.observation.looking import EXACT, Observed, ObservingJob, stage_names
from selector.observation.observations import Observations
from selector.observation.stored import IN_MEMORY, Blocks, read_blocks, rows_of

BLOCK = 256
"""Images a file: what an interruption may cost."""

Fill = Callable[[Sequence[int], Path], None]
"""Writes the blocks that begin with these images into a folder."""

_GROUPS = ("image", "stem", "prefix", "grid", "probabilities")


def observe(
    run: Run,
    source: ImageSource,
    portfolio: Sequence[Configuration],
    out: Path,
    *,
    splits: tuple[str, ...] = SPLITS,
    settings: RunSettings | None = None,
    fill: Fill | None = None,
    in_memory: int = IN_MEMORY,
) -> Observations:
    """Observe images under a portfolio, or find what is in ``out`` already. What is large of it stays there.

    Args:
        run: whose network is observed.
        source: its images, or others.
        portfolio: what a policy may choose; the network's default must be in it.
        out: folder in which the portfolio's observations have a folder of their own.
        splits: only these.
        settings: where the network runs and the images are, and whether on a Ray cluster; the run's own unless given.
        fill: writes the blocks that are missing; unless given, by running the network.
        in_memory: bytes of all that is read at once; see :func:`selector.observation.stored.read_blocks`.

    Raises:
        UserError: the portfolio lacks the default, or ``out`` holds observations of another network or other images, or
            damaged ones.
    """
    source, network = view_source(source, View(splits=splits)), run.network
    if network.default not in portfolio:
        raise UserError(f"the portfolio lacks the default {network.default.id}, the baseline of every comparison")
    stages, distinct = stage_names(network, portfolio)
    out = out / Space("portfolio", portfolio).digest
    identity = source.identity | {
        "weights": run.digests.weights,
        "statistics": run.digests.statistics,
        "dtype": run.settings.dtype,
        "images": digest_of(source.keys, source.labels),
        "portfolio": " ".join(c.id for c in portfolio),
        "block": str(BLOCK),
        "features": str(VERSION),
    }
    earlier = set_aside(out, identity, source, BLOCK)
    out.mkdir(parents=True, exist_ok=True)
    described = out / IDENTITY
    if not described.exists():
        write_record(described, identity)
    compare_identity(out, read_record(described), identity, "delete this folder, and it is made again")
    starts = range(0, len(source.keys), BLOCK)
    missing = [start for start in starts if not block_file(out, start).exists()]
    if missing:
        if fill is not None:
            fill(missing, out)
        else:
            _fill(run, source, portfolio, missing, earlier, out, settings or run.settings)
    earlier.drop()
    found = read_blocks(Blocks(tuple(block_file(out, start) for start in starts), BLOCK), _GROUPS, in_memory)
    readable = np.asarray(found.pop("readable"))
    kept: dict[str, Any] = {name: rows_of(values, readable) for name, values in found.items()}
    sides = source.metadata.get("side")
    return Observations(
        keys=source.keys[readable],
        splits=source.splits[readable],
        labels=source.labels[readable],
        sides=None if sides is None else sides[readable],
        portfolio=tuple(portfolio),
        default=list(portfolio).index(network.default),
        digests=run.digests,
        costs=Costs(network, portfolio, source.resolution),
        stages=stages,
        stage_values={name: kept[name] for name in distinct.values()},
        **{name: kept[name] for name in (*_GROUPS, *EXACT)},
    )


def _fill(
    run: Run,
    source: ImageSource,
    portfolio: Sequence[Configuration],
    missing: Sequence[int],
    earlier: Earlier,
    out: Path,
    settings: RunSettings,
) -> None:
    """Make the blocks that are not there, of what earlier ones know and what is observed here or on a Ray cluster."""
    dtype = DTYPES[run.settings.dtype]
    size = WalkSize.fitting(run.network, portfolio, source.resolution, BLOCK, settings.device, None, dtype)
    job = ObservingJob(
        configurations=Space("portfolio", portfolio),
        size=size,
        threads=torch.get_num_threads(),
        dtype=run.settings.dtype,
        statistics=run.statistics,
    )
    blocks = {start: np.arange(start, min(start + BLOCK, len(source.keys))) for start in missing}
    unknown = {start: block[~earlier.has(block)] for start, block in blocks.items()}
    task = Task(
        settings=settings,
        network=run.network,
        source=source,
        job=job,
        regions=[rows for rows in unknown.values() if len(rows)],
    )

    def write(start: int, observed: Observed | None = None) -> None:
        block = blocks[start]
        known = block[earlier.has(block)]
        made = [earlier.take(known)] if len(known) else []
        made += [observed.arrays] if observed is not None else []
        order = np.argsort(np.concatenate([known, unknown[start]]))
        write_arrays(
            block_file(out, start), {name: np.concatenate([part[name] for part in made])[order] for name in made[0]}
        )
        progress.update(len(block))

    left = sum(map(len, blocks.values()))
    with (
        tqdm(
            total=len(source.keys),
            initial=len(source.keys) - left,
            desc=f"{len(portfolio)} configurations",
            unit="image",
            file=sys.stderr,
        ) as progress,
        closing(done([task], settings, progress)) as results,
    ):
        for start, rows in unknown.items():
            if not len(rows):
                write(start)
        for _, observed in results:
            for key, reason in observed.problems.items():
                progress.write(f"not observed: {key}: {reason}", file=sys.stderr)
            write(int(observed.rows[0]) // BLOCK * BLOCK, observed)
