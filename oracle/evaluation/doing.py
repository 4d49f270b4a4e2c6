"""Tasks done wherever the settings say: in this process, or on the workers of a Ray cluster, with the same results."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, NoReturn

from tqdm import tqdm

from oracle.evaluation.jobs import Result, Task, done_here
from oracle.evaluation.ray_workers import done_on_ray
from oracle.ray_settings import RaySettings


def done(
    tasks: Sequence[Task[Result]], where: RaySettings, progress: tqdm[NoReturn] | tqdm[Any]
) -> Generator[tuple[int, Result], None, None]:
    """The results of all regions of some tasks, each with the position of its task.

    In this process one after the other, in order; on a cluster all at once, in whatever order workers get done.

    Args:
        tasks: to do.
        where: no cluster is named: here. Else within :func:`oracle.evaluation.ray_workers.cluster`.
        progress: shows how many workers there are; counting is the caller's.

    Raises:
        UserError: no worker can do this, or a region ends every one.
    """
    if where.ray:
        with closing(done_on_ray(tasks, where, progress)) as results:
            yield from results
        return
    for position, task in enumerate(tasks):
        for result in done_here(task):
            yield position, result
