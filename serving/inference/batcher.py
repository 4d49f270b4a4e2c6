"""The micro-batcher: whatever waits runs together, in one thread, behind a queue of bounded length.

BentoML's own adaptive batching takes one parameter, fails a whole batch for one bad image, and sheds load by prediction;
here every image has its own plan and fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from serving.errors import Rejection
from serving.inference.engine import ImageResult
from serving.inference.fair_queue import FairQueue
from serving.inference.plans import Plan
from serving.operation.supervision import supervised

_log = logging.getLogger("serving")

Run = Callable[[np.ndarray, Sequence[Plan]], list[ImageResult]]
"""Answers (N, C, H, W) images under N plans."""


@dataclass(frozen=True, kw_only=True)
class BatchedResult:
    """What came of one image, and how long it took.

    Attributes:
        result: of the network.
        queued_ms: milliseconds it waited.
        ran_ms: milliseconds of the whole batch it ran in.
        batch: images in that batch.
    """

    result: ImageResult
    queued_ms: float
    ran_ms: float
    batch: int


@dataclass
class _Job:
    image: np.ndarray
    plan: Plan
    future: asyncio.Future[BatchedResult]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects images for a moment and runs them together.

    Args:
        run: answers a batch; called in one thread of its own.
        max_batch: images of a batch, at most.
        max_wait: seconds that the first image of a batch waits for others.
        max_queue: images that may wait.
        share: images of one request in a batch, at most, while smaller requests come; see :class:`FairQueue`.
        observe: called with the number of images and the seconds of every batch.
        watch: called with the number of images that wait, whenever it changes.
        give_up: called where it died too often and answers no more.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        share: int = 16,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
        watch: Callable[[int], None] = lambda waiting: None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._max_batch, self._max_wait, self._max_queue = run, max_batch, max_wait, max_queue
        self._observe, self._watch = observe, watch
        self._running = 0
        self._waiting: FairQueue[_Job] = FairQueue(share=share)
        self._arrived = asyncio.Event()
        self._closing = False
        self._seconds_an_image = 0.01
        self._pool = ThreadPoolExecutor(1, "model")
        serving = supervised("batcher", self._serve, ended=lambda: self._closing, give_up=give_up)
        self._task = asyncio.get_running_loop().create_task(serving)
        self._task.add_done_callback(self._refuse_waiting)

    @property
    def depth(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    @property
    def failed(self) -> bool:
        """Whether it died too often, and answers no more."""
        return self._task.done() and not self._closing

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting) or self._running > 0

    def check_room(self, images: int = 1) -> None:
        """Raise Rejection (overloaded) where so many more images would not fit into the queue."""
        if self._closing or self._task.done():
            raise Rejection("starting", "the server is shutting down: try again", retry_after=1)
        if self.depth + images > self._max_queue:
            seconds = max(1, math.ceil(self.depth * self._seconds_an_image))
            raise Rejection("overloaded", f"{self.depth} images wait already: try again in {seconds} s", retry_after=seconds)

    async def submit(
        self, images: Sequence[np.ndarray], plan: Plan, *, priority: int = 0, deadline: float = math.inf
    ) -> list[BatchedResult | Exception]:
        """Answer some images of one request.

        Args:
            images: each (C, H, W) float32, all of one size.
            plan: of all of them.
            priority: higher ones go first.
            deadline: when nobody wants the answers any more (``time.monotonic()``); images that still wait then are refused.

        Returns:
            For each image its result, or the exception that it alone caused.

        Raises:
            Rejection: the queue is full.
        """
        self.check_room(len(images))
        loop = asyncio.get_running_loop()
        jobs = [_Job(image, plan, loop.create_future()) for image in images]
        self._waiting.add(jobs, priority=priority, deadline=deadline)
        self._watch(self.depth)
        self._arrived.set()
        results = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        return [r if isinstance(r, BatchedResult) else _as_exception(r) for r in results]

    async def close(self) -> None:
        """Answer what was accepted, then stop."""
        self._closing = True
        self._arrived.set()
        await self._task
        self._pool.shutdown()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._let_fill()
            for job in self._waiting.expired():
                if not job.future.done():
                    job.future.set_exception(Rejection("overloaded", "the deadline passed while it waited", retry_after=1))
            jobs = [job for job in self._waiting.take(self._max_batch) if not job.future.done()]
            self._watch(self.depth)
            if not jobs:
                continue
            self._running = len(jobs)
            results: Sequence[BatchedResult | Exception]
            try:
                results = await loop.run_in_executor(self._pool, self._answer, jobs)
            except Exception as error:  # whatever it is, each of them gets an answer and the next batch its turn
                _log.exception("a batch of %d images was not answered", len(jobs))
                results = [error] * len(jobs)
            finally:
                self._running = 0
            for job, result in zip(jobs, results, strict=True):
                if job.future.done():
                    continue
                if isinstance(result, BatchedResult):
                    job.future.set_result(result)
                else:
                    job.future.set_exception(result)

    def _refuse_waiting(self, _task: asyncio.Task[None]) -> None:
        """Whoever waits when the task is over for good would wait for ever."""
        for job in self._waiting:
            if not job.future.done():
                job.future.set_exception(Rejection("starting", "the server is ending: try again", retry_after=1))
        self._waiting.clear()

    async def _let_fill(self) -> None:
        """Wait until the batch is full or its first image has waited long enough."""
        left = self._waiting.since + self._max_wait - time.monotonic()
        while left > 0 and len(self._waiting) < self._max_batch and not self._closing:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return
            left = self._waiting.since + self._max_wait - time.monotonic()

    def _answer(self, jobs: Sequence[_Job]) -> list[BatchedResult | Exception]:
        began = time.monotonic()
        results: list[ImageResult | Exception]
        try:
            results = [*self._run(np.stack([job.image for job in jobs]), [job.plan for job in jobs])]
            if len(results) != len(jobs):
                raise RuntimeError(f"{len(results)} results of {len(jobs)} images")
        except Exception:
            _log.exception("a batch of %d images failed; running them one by one", len(jobs))
            results = [self._alone(job) for job in jobs]
        seconds = time.monotonic() - began
        self._seconds_an_image = 0.8 * self._seconds_an_image + 0.2 * seconds / len(jobs)
        try:
            self._observe(len(jobs), seconds)
        except Exception:
            _log.exception("a batch was not counted")
        return [
            BatchedResult(result=r, queued_ms=1000 * (began - job.since), ran_ms=1000 * seconds, batch=len(jobs))
            if isinstance(r, ImageResult)
            else r
            for job, r in zip(jobs, results, strict=True)
        ]

    def _alone(self, job: _Job) -> ImageResult | Exception:
        try:
            return self._run(job.image[None], [job.plan])[0]
        except Exception as error:
            return error


def _as_exception(result: BatchedResult | BaseException) -> Exception:
    assert isinstance(result, Exception)
    return result
