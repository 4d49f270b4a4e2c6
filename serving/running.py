"""A deployment at work: pictures are prepared for it, batched, answered by it, and compared with what it promised.

Taking over a new run makes a second one beside the first; requests finish on the one that they began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image

from serving.inference.batcher import Batcher
from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.description import describe
from serving.inference.engine import answer
from serving.inference.opening import open_deployment
from serving.inference.opening_ahead import OpeningAhead
from serving.inference.preparation import Preparation
from serving.live.evaluator import Evaluator
from serving.live.out_of_range import ALPHA, RangeWatch
from serving.live.shadow import shadow_of
from serving.live.store import Store
from serving.operation import metrics
from serving.settings import ServingSettings


class Running:
    """A deployment that answers; made in the event loop that it is used in.

    Args:
        settings: of the service.
        deployment: what answers.
        store: the database.
        give_up: called where it can answer no more, see :attr:`Batcher.failed`.
    """

    def __init__(
        self, settings: ServingSettings, deployment: Deployment, store: Store, give_up: Callable[[], None] = lambda: None
    ) -> None:
        self.deployment = deployment
        self.batcher = Batcher(
            functools.partial(answer, deployment),
            max_batch=settings.max_batch,
            max_wait=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
            share=settings.batch_share,
            observe=_observe_batch,
            watch=metrics.QUEUE.set,
            give_up=give_up,
        )
        self.preparation = Preparation(deployment.transform, settings.max_megapixels, settings.max_decoded_megapixels)
        self.description: dict[str, Any] = describe(deployment, settings)
        self._evaluator = Evaluator(deployment, store, settings, lambda: not self.batcher.busy)
        self.shadow = shadow_of(settings, deployment, store, lambda: not self.batcher.busy)
        self.watch = RangeWatch(deployment, alpha=ALPHA / settings.workers)
        self._opening: OpeningAhead | None = None
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @classmethod
    async def start(cls, settings: ServingSettings, store: Store, give_up: Callable[[], None] = lambda: None) -> Running:
        """Open what the settings name, and warm it up. Raises UserError where it is not there or does not fit them."""
        deployment = await asyncio.to_thread(open_deployment, settings)
        # Counting the MACs of every configuration for the first time takes seconds where there are hundreds.
        await asyncio.to_thread(lambda: [deployment.macs(c) for c in deployment.configurations])
        running = cls(settings, deployment, store, give_up)
        try:
            await running._warm_up()
        except BaseException:
            await running.close()
            raise
        running._opening = OpeningAhead(
            deployment, running._noise(1)[0], settings.workers, idle=lambda: not running.batcher.busy
        )
        return running

    @contextlib.contextmanager
    def used(self) -> Iterator[Running]:
        """While a request is answered: it does not close before."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def retire(self) -> None:
        """Close, once the requests that it began to answer have their answers."""
        await self._unused.wait()
        await self.close()

    async def close(self) -> None:
        """Answer what was accepted, then stop; each step, whatever became of the one before."""
        async with contextlib.AsyncExitStack() as last_first:
            last_first.callback(self.preparation.close)
            last_first.push_async_callback(asyncio.to_thread, self._evaluator.close)
            if self.shadow is not None:
                last_first.push_async_callback(asyncio.to_thread, self.shadow.close)
            last_first.push_async_callback(self.batcher.close)
            if self._opening is not None:
                last_first.push_async_callback(asyncio.to_thread, self._opening.close)

    async def _warm_up(self) -> None:
        """Run images alone and together, under the active policy and the default: a first run of anything is slow."""
        for plan in (self.deployment.active, plan_request(self.deployment, policy="default")[0]):
            for count in (1, 1, 8):
                for result in await self.batcher.submit(list(self._noise(count)), plan):
                    if isinstance(result, Exception):
                        raise result

    def _noise(self, count: int) -> np.ndarray:
        """(count, C, resolution, resolution) float32, as if they were prepared pictures."""
        side = self.deployment.resolution
        shape = self.deployment.transform(PIL.Image.new("L", (side, side))).shape
        return np.random.default_rng(count).standard_normal((count, *shape), np.float32)


def _observe_batch(images: int, seconds: float) -> None:
    metrics.BATCH.observe(images)
    metrics.BATCH_SECONDS.observe(seconds)
