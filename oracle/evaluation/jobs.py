"""Work on the images of a run, region by region: what it is, apart from where it is done.

A job is plain data that travels; opened beside a network and images it is a function of one region's rows and pixels, and of
nothing else. Outcomes, exact bounds, observations and batch-norm statistics are jobs. Whoever does them
(:mod:`oracle.evaluation.doing`) hands results to one writer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from dynamic.configuration import Configuration
from dynamic.models import LoadedNetwork
from oracle.data.image_source import Batch, ImageSource
from oracle.settings import RunSettings

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

Compute = Callable[[np.ndarray, Batch], Result]
"""Rows of a source, and what was read of them, to what came out: arrays, which travel."""


class Job(Protocol[Result_co]):
    """A kind of work, to be pickled.

    Attributes:
        configurations: that the network runs.
    """

    @property
    def configurations(self) -> Sequence[Configuration]:
        """See the class."""
        ...

    def opened(
        self, network: LoadedNetwork, source: ImageSource, device: str, cores: int | None = None
    ) -> Callable[[np.ndarray, Batch], Result_co]:
        """Prepare for regions of ``source``.

        Args:
            network: as :func:`dynamic.load` gives it.
            source: the images.
            device: where they run.
            cores: that may be used; None for as many as the job has threads. Fewer take longer and change nothing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Task(Generic[Result]):
    """A job and the regions that it is to be done on.

    Attributes:
        settings: of the run; by these the images are found elsewhere.
        network: loaded.
        source: the images.
        job: what to do.
        regions: rows of the source that are done together.
    """

    settings: RunSettings
    network: LoadedNetwork
    source: ImageSource
    job: Job[Result]
    regions: Sequence[np.ndarray]


def load(source: ImageSource, rows: np.ndarray, without: Mapping[int, str] = MappingProxyType({})) -> Batch:
    """Read some rows; those of ``without`` count as unreadable, for the reason it gives, and are not touched."""
    if not without:
        return source.load(rows)
    kept = ~np.isin(rows, list(without))
    part = source.load(rows[kept])
    images = torch.zeros(len(rows), *part.images.shape[1:])
    images[torch.from_numpy(kept)] = part.images
    readable = np.zeros(len(rows), bool)
    readable[kept] = part.readable
    left_out = {str(source.keys[row]): without[row] for row in rows[~kept].tolist()}
    return Batch(images=images, readable=readable, problems=part.problems | left_out)


def done_here(task: Task[Result]) -> Generator[Result, None, None]:
    """The regions one after the other in this process; one is read while the one before it runs."""
    compute = task.job.opened(task.network, task.source, task.settings.device)
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(load, task.source, task.regions[0])] if task.regions else []
        for position, rows in enumerate(task.regions):
            batch = ahead.pop().result()
            if position + 1 < len(task.regions):
                ahead.append(reader.submit(load, task.source, task.regions[position + 1]))
            yield compute(rows, batch)


def threads_of_walks(walks: int, threads: int, cores: int | None) -> ThreadPoolExecutor:
    """Threads for walks side by side, which end when nobody holds them.

    Args:
        walks: that a job has. How many threads each of them has decides the last bits: one each where there are several.
        threads: of the walk where there is one.
        cores: most walks that run side by side here; None for all.
    """
    return ThreadPoolExecutor(
        min(walks, cores or walks), initializer=torch.set_num_threads, initargs=(1 if walks > 1 else threads,)
    )
