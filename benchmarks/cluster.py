"""What workers of a Ray cluster bring, and what Ray costs: images a second, in one run on one machine of two cores and more.

    python -m benchmarks.cluster                                            # slim ResNet-50, some minutes
    python -m benchmarks.cluster --space small.json --images 32 --repeats 1

Four ways to the same outcomes, timed in turn, ``--repeats`` times; threads are bound to cores, so that one core is one:

* plain: this process on one core and on two, as ``oracle.run`` does it;
* Ray: one worker and two workers of one core each, on a cluster of this machine (``--ray local``).

The clock runs from when network and images are open; what it takes until then is told by itself. The best of the repeats
counts. "scaling" is two workers over one; "overhead" is how much longer Ray takes than the plain run with the same cores.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch

from dynamic.command import run_command
from dynamic.errors import UserError
from oracle.evaluation.collect import open_collection, walk_size
from oracle.evaluation.dispatch import Errand, Event, Finished, Joined, dispatched
from oracle.evaluation.evaluate import OutcomesJob, Region, WalkSize
from oracle.evaluation.jobs import Task, load
from oracle.evaluation.ray_workers import RayWorkers, cluster
from oracle.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What to time."""

    model: str = "resnet50-slim"
    """As for oracle.run."""
    space: str = "stride"
    """As for oracle.run."""
    images: int = 48
    """Scenes a split."""
    region: int = 8
    """Images that a worker is given at a time."""
    repeats: int = 3
    """How often each way is timed."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


class OpenWorkers:
    """Workers that are all there before the first of them is told of."""

    def __init__(self, workers: RayWorkers, count: int) -> None:
        self._workers = workers
        self._joined: list[Joined] = []
        while len(self._joined) < count:
            self._joined += [event for event in workers.events() if isinstance(event, Joined)]

    def warm(self, rows: np.ndarray) -> None:
        """Have every worker do a region once: it then has its memory and derived kernels."""
        for event in self._joined:
            self._workers.give(event.worker, Errand(task=0, rows=rows, without={}))
        left = len(self._joined)
        while left:
            left -= sum(isinstance(event, Finished) for event in self._workers.events())

    def give(self, worker: int, errand: Errand) -> None:
        """See :class:`oracle.evaluation.dispatch.Workers`."""
        self._workers.give(worker, errand)

    def dismiss(self, worker: int) -> None:
        """See :class:`oracle.evaluation.dispatch.Workers`."""
        self._workers.dismiss(worker)

    def events(self) -> Sequence[Event]:
        """Those that have joined, then what happens."""
        joined, self._joined = self._joined, []
        return joined or self._workers.events()


def bind(process: int, cores: set[int]) -> None:
    """Keep all threads of a process, and those that they start, on some cores."""
    for thread in os.listdir(f"/proc/{process}/task"):
        os.sched_setaffinity(int(thread), cores)


@contextmanager
def bound(cores: set[int]) -> Iterator[None]:
    """Keep this process on some cores."""
    before = os.sched_getaffinity(0)
    bind(os.getpid(), cores)
    try:
        yield
    finally:
        bind(os.getpid(), before)


def actors(count: int) -> list[int]:
    """Processes of the workers, once those of earlier ones are gone."""
    while True:
        found = [child.pid for child in psutil.Process().children(recursive=True) if "::_Worker" in child.name()]
        if len(found) == count:
            return found
        time.sleep(0.1)


def plain(task: Task[Region], cores: list[int]) -> tuple[float, list[Region]]:
    """Seconds, and what came out."""
    with bound(set(cores)), ThreadPoolExecutor(1) as reader:
        compute = task.job.opened(task.network, task.source, task.settings.device, len(cores))
        compute(task.regions[0], load(task.source, task.regions[0]))  # as a worker's first region: memory, derived kernels
        started = time.perf_counter()
        batches = [reader.submit(load, task.source, rows) for rows in task.regions]
        finished = [compute(rows, batch.result()) for rows, batch in zip(task.regions, batches, strict=True)]
        return time.perf_counter() - started, finished


def on_ray(task: Task[Region], cores: list[int]) -> tuple[float, list[Region], float]:
    """Seconds, what came out, and the seconds until the workers were ready."""
    settings = replace(task.settings, ray_workers=len(cores))
    asked = time.perf_counter()
    with RayWorkers([task], settings, print, lambda _: None) as workers:
        ready = OpenWorkers(workers, len(cores))
        for process, core in zip(actors(len(cores)), cores, strict=True):
            bind(process, {core})
        opened = time.perf_counter() - asked
        ready.warm(task.regions[0])
        started = time.perf_counter()
        finished = [region for _, region in dispatched(ready, [(0, rows) for rows in task.regions])]
        return time.perf_counter() - started, finished, opened


def digest(finished: list[Region]) -> bytes:
    """Of everything that came out, in the order of the rows."""
    ordered = sorted(finished, key=lambda region: int(region.rows[0]))
    return b"".join(region.predicted.tobytes() + region.p_true.tobytes() for region in ordered)


def main(settings: BenchmarkSettings) -> None:
    """Time the four ways and print the table."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise UserError("two workers of one core each need two cores")
    asked = RunSettings(
        model=settings.model, space=settings.space, images=settings.images, region=settings.region, device="cpu",
        ray="local", out=Path("unused"),
    )  # fmt: skip
    collection = open_collection(asked)
    fitting = walk_size(collection, collection.union)
    size = WalkSize(images=-(-settings.region // 2), rows=fitting.rows, walks=2)
    starts = range(0, len(collection.source.keys), settings.region)
    regions = [np.arange(start, min(start + settings.region, len(collection.source.keys))) for start in starts]
    threads = torch.get_num_threads()
    job = OutcomesJob(configurations=collection.union, size=size, dtype=asked.dtype, threads=threads)
    task = Task(settings=asked, network=collection.network, source=collection.source, job=job, regions=regions)
    seconds: dict[str, list[float]] = {}
    opening: list[float] = []
    outcomes: set[bytes] = set()
    with cluster(asked):
        for _ in range(settings.repeats):
            for used in (cores[:1], cores):
                took, finished = plain(task, used)
                seconds.setdefault(f"plain {len(used)}", []).append(took)
                outcomes.add(digest(finished))
                took, finished, opened = on_ray(task, used)
                seconds.setdefault(f"ray {len(used)}", []).append(took)
                outcomes.add(digest(finished))
                opening.append(opened)
    assert len(outcomes) == 1, "the ways do not agree"
    best = {way: min(times) for way, times in seconds.items()}
    images = len(collection.source.keys)
    rates = {way: images / time for way, time in best.items()}
    overhead = [best[f"ray {count}"] / best[f"plain {count}"] - 1 for count in (1, 2)]
    scaling = {way: best[f"{way} 1"] / best[f"{way} 2"] for way in ("plain", "ray")}
    result = {
        "images": images,
        "configurations": len(collection.union),
        "images_per_second": rates,
        "scaling": scaling,
        "overhead": overhead,
        "seconds_until_ready": min(opening),
        "seconds": seconds,
    }
    print(
        f"{images} images, {len(collection.union)} configurations, regions of {settings.region}, the same outcomes each way"
    )
    for way, rate in rates.items():
        print(f"{way} core{'s' * way.endswith('2')}: {rate:.2f} images a second")
    print(f"two cores over one: Ray {scaling['ray']:.2f}, one process {scaling['plain']:.2f}")
    print(f"overhead of Ray on one core {overhead[0]:+.1%}, on two {overhead[1]:+.1%}")
    print(f"workers ready after {min(opening):.1f} s")
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, BenchmarkSettings, __doc__ or "")
