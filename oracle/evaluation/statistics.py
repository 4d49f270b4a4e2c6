"""Re-estimated batch-norm statistics of runs (``--recalibrate``): what is asked for, estimated here or on a Ray cluster.

A region is one of the batches that :func:`dynamic.recalibration.recalibrate` would make, so where they run changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from dynamic.configuration import Space
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork
from dynamic.norms import Statistics
from dynamic.recalibration import BATCH, Average, Moments, check_recalibration, moments_of, recalibrate
from dynamic.resources import cpu_count
from oracle.data.sources import Batch, ImageSource
from oracle.data.views import readable_label_rows
from oracle.evaluation.doing import done
from oracle.evaluation.evaluate import memory_budget
from oracle.evaluation.jobs import Task, threads_of_walks
from oracle.runs import open_images
from oracle.settings import RunSettings

SMALLEST_BATCH = 16
"""Images that batch-norm statistics are estimated on together, at least."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Statistics that a run wants.

    Attributes:
        settings: of the run.
        network: whose batch norms they are for.
        configurations: whose prefixes they are for.
        resolution: side in pixels of what the network sees.
    """

    settings: RunSettings
    network: LoadedNetwork
    configurations: Space
    resolution: int

    @property
    def source(self) -> ImageSource:
        """Label images, as the network sees them."""
        settings = self.label_settings
        return open_images(settings, self.network.info, ("label",))

    @property
    def label_settings(self) -> RunSettings:
        """By which these images are opened."""
        settings = self.settings
        return replace(settings, images=settings.recalibrate, regime=settings.recalibrate_regime or settings.regime)

    def at_once(self, images: int) -> tuple[int, int]:
        """Of so many images: how many make a batch, and how many batches run side by side.

        Raises:
            UserError: memory is too small for a batch that is worth it.
        """
        settings = self.settings
        row = self.network.costs.row_bytes(self.configurations, self.resolution)
        affordable = int(memory_budget(settings.device, settings.memory_gib) // row)
        # Fewer threads before smaller batches: those make poorer statistics.
        batch = min(BATCH, affordable)
        if batch < min(SMALLEST_BATCH, images):
            raise UserError(
                f"recalibration runs at least {SMALLEST_BATCH} images together, which need about "
                f"{SMALLEST_BATCH * row / 2**30:.1f} GiB: raise --memory-gib or choose a smaller space or resolution"
            )
        cores = cpu_count() if torch.device(settings.device).type == "cpu" else 1
        return batch, max(1, min(cores, affordable // batch, -(-images // batch)))


@dataclass(frozen=True, kw_only=True)
class StatisticsJob:
    """What batch norms see of a region, which is one batch; see :class:`oracle.evaluation.jobs.Job`.

    Attributes:
        configurations: see :class:`Asked`.
        max_rows: that run at once.
        keep_default: see :func:`dynamic.recalibration.recalibrate`.
        threads: of the walk; their number decides the last bits.
    """

    configurations: Space
    max_rows: int
    keep_default: bool
    threads: int

    def opened(
        self, network: LoadedNetwork, source: ImageSource, device: str, cores: int | None = None
    ) -> Callable[[np.ndarray, Batch], tuple[int, Moments]]:
        """See :class:`oracle.evaluation.jobs.Job`; the result is the region's first row and what was seen of it."""
        seen = moments_of(
            network, self.configurations, max_rows=self.max_rows, device=device, keep_default=self.keep_default
        )
        pool = threads_of_walks(1, self.threads, cores)

        def compute(rows: np.ndarray, batch: Batch) -> tuple[int, Moments]:
            for key, reason in batch.problems.items():  # the images were all readable when the batches were made
                raise UserError(f"{key}, which statistics are estimated on: {reason}")
            return int(rows[0]), pool.submit(seen, batch.images).result()

        return compute


def estimated(asked: Sequence[Asked]) -> list[Statistics]:
    """The statistics of some runs: one after the other in this process, or all at once on the cluster.

    Raises:
        UserError: fewer than two readable label images, too little memory, or a network that cannot be recalibrated.
    """
    if not asked or not asked[0].settings.ray:
        return [_estimated_here(one) for one in asked]
    tasks = [_task(one) for one in asked]
    averages = [_InOrder(task) for task in tasks]
    images = sum(len(rows) for task in tasks for rows in task.regions)
    with tqdm(total=images, desc="batch-norm statistics", unit="image", file=sys.stderr) as progress:
        for position, (first, moments) in done(tasks, asked[0].settings, progress):
            progress.update(moments.images)
            averages[position].take(first, moments)
    return [average.statistics() for average in averages]


class _InOrder(Average):
    """An average whose batches come in any order and are added in that of their rows."""

    def __init__(self, task: Task[tuple[int, Moments]]) -> None:
        super().__init__(sum(map(len, task.regions)), task.network.digest)
        self._order = [int(rows[0]) for rows in task.regions]
        self._early: dict[int, Moments] = {}

    def take(self, first: int, moments: Moments) -> None:
        self._early[first] = moments
        while self._order and self._order[0] in self._early:
            self.add(self._early.pop(self._order.pop(0)))


def _batches(asked: Asked, source: ImageSource) -> tuple[list[np.ndarray], int, int]:
    """Rows of each batch, most images of one, and how many batches run side by side.

    What is read together is the same wherever it is: a scene's last bits depend on those that are rendered with it.
    """
    rows = readable_label_rows(source, asked.settings.recalibrate)
    check_recalibration(asked.network, asked.configurations, len(rows))
    batch, side_by_side = asked.at_once(len(rows))
    parts = torch.from_numpy(rows).tensor_split(-(-len(rows) // batch))
    return [part.numpy() for part in parts], batch, side_by_side


def _task(asked: Asked) -> Task[tuple[int, Moments]]:
    source = asked.source
    regions, batch, side_by_side = _batches(asked, source)
    job = StatisticsJob(
        configurations=asked.configurations,
        max_rows=batch,
        keep_default=asked.settings.keep_default,
        threads=1 if side_by_side > 1 else torch.get_num_threads(),
    )
    return Task(settings=asked.label_settings, network=asked.network, source=source, job=job, regions=regions)


def _estimated_here(asked: Asked) -> Statistics:
    source = asked.source
    regions, batch, side_by_side = _batches(asked, source)
    return recalibrate(
        asked.network,
        torch.cat([source.load(rows).images for rows in regions]),
        asked.configurations,
        batch=batch,
        max_rows=batch,
        device=asked.settings.device,
        threads=side_by_side,
        keep_default=asked.settings.keep_default,
    )
