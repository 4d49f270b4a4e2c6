"""Answers requests: plan, prepare, batch, name the classes, count, record. Nothing here knows BentoML."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from starlette.datastructures import UploadFile

from dynamic.errors import UserError
from selector.policies.objectives import OperatingPoint
from serving.errors import Rejection
from serving.http.urgency import NORMAL, Urgency
from serving.ids import new_id
from serving.inference.batcher import BatchedResult, Batcher
from serving.inference.budget import open_reserve_for, plan_request
from serving.inference.deployment import Deployment
from serving.inference.description import describe_configuration, describe_maker
from serving.inference.engine import ImageResult
from serving.inference.plans import Plan
from serving.inference.preparation import Preparation, Upload
from serving.live.feedback import take_label
from serving.live.live_gap import live_gap, publish
from serving.live.no_store import open_store
from serving.live.offline_gap import offline_gap
from serving.live.recorder import Recorder
from serving.live.records import StoredAnswer
from serving.live.store import Store, in_database
from serving.live.tidying import Tidying
from serving.operation import logs, metrics
from serving.running import Running
from serving.schema import Answer, Expected, Feedback, FeedbackAnswer, Options, Prediction
from serving.settings import ServingSettings

_GAP_SECONDS = 2.0
"""How long a live gap is shown before it is computed anew."""

_EARLIER = 100
"""Deployments that were replaced whose answers may still be labelled."""


class Classifier:
    """A network that answers, and what it remembers; made by :meth:`open`, in the event loop that it is used in.

    Args:
        settings: of the service.
        deployment: what answers, opened; or at work already.
        store: the database.
        give_up: called where it can answer no more, see :attr:`Batcher.failed`.

    Attributes:
        earlier: keys of deployments that answered before, whose answers may still be labelled.
    """

    def __init__(
        self,
        settings: ServingSettings,
        deployment: Deployment | Running,
        store: Store,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.store, self._give_up = settings, store, give_up
        self._running = deployment if isinstance(deployment, Running) else Running(settings, deployment, store, give_up)
        self.earlier: list[str] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._recorder = Recorder(store, settings)
        self._tidying = Tidying(store, settings)
        self._live: tuple[float, dict[str, Any]] | None = None
        self._counting = asyncio.Lock()

    @classmethod
    async def open(cls, settings: ServingSettings, give_up: Callable[[], None] = lambda: None) -> Self:
        """Load, connect and warm up. Raises UserError where the settings name what is not there."""
        store = await asyncio.to_thread(open_store, settings.database_url)
        try:
            return cls(settings, await Running.start(settings, store, give_up), store, give_up)
        except BaseException:
            store.close()
            raise

    @property
    def deployment(self) -> Deployment:
        """What answers requests that begin now."""
        return self._running.deployment

    @property
    def batcher(self) -> Batcher:
        """Its batches."""
        return self._running.batcher

    @property
    def preparation(self) -> Preparation:
        """What prepares pictures for it."""
        return self._running.preparation

    async def beside(self, settings: ServingSettings) -> Running:
        """Open what the settings name now beside what answers, ready to :meth:`take_over`.

        Raises:
            UserError: it is not there, is damaged, or has other classes; what answers goes on.
        """
        running = await Running.start(settings, self.store, self._give_up)
        if running.deployment.classes != self.deployment.classes:
            await running.close()
            old, new = len(self.deployment.classes), len(running.deployment.classes)
            what = f"{new} instead of {old}" if old != new else "other names, or another order"
            raise UserError(f"{running.deployment.name} has other classes ({what}): start another server for it")
        return running

    def take_over(self, running: Running) -> None:
        """Answer requests that begin from now on with another deployment; those under way finish on the earlier one."""
        retired, self._running, self._live = self._running, running, None
        running.watch.publish()
        if retired.deployment.key != running.deployment.key:
            self.earlier = [key for key in self.earlier if key != running.deployment.key][-_EARLIER:]
            self.earlier.append(retired.deployment.key)
        task = asyncio.get_running_loop().create_task(retired.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def retired(self) -> None:
        """Wait until earlier deployments are closed."""
        await asyncio.gather(*self._retiring)

    async def close(self) -> None:
        """Answer what was accepted, store what was answered; each step, whatever became of the one before."""
        async with contextlib.AsyncExitStack() as last_first:
            last_first.callback(self.store.close)
            for part in (self._tidying, self._recorder):
                last_first.push_async_callback(asyncio.to_thread, part.close)
            last_first.push_async_callback(self._running.close)
            last_first.push_async_callback(self.retired)

    async def answer(
        self, uploads: Sequence[Upload], options: Options, urgency: Urgency = NORMAL, notes: logs.Notes | None = None
    ) -> list[Answer | Rejection]:
        """Each image's own answer, or why it has none.

        Args:
            uploads: the images.
            options: how to classify them.
            urgency: how they wait.
            notes: of the request: its id names the answers, and what became of it is added. Of one without, made anew.

        Raises:
            Rejection: options that cannot be had, or a full queue: none is answered.
        """
        with self._running.used() as running:
            return await self._answers(running, uploads, options, urgency, notes or logs.Notes(new_id()))

    async def _answers(
        self, running: Running, uploads: Sequence[Upload], options: Options, urgency: Urgency, notes: logs.Notes
    ) -> list[Answer | Rejection]:
        deployment = running.deployment
        if options.configuration is not None and deployment.reserve is not None:
            await asyncio.to_thread(open_reserve_for, deployment, options.configuration)
        plan, point = plan_request(deployment, options.policy, options.max_gmacs, options.configuration)
        running.batcher.check_room(len(uploads) + running.preparation.pending)
        began = time.time_ns()
        inputs = await running.preparation.prepare(uploads)
        prepared = time.time_ns()
        good = {position: image for position, image in enumerate(inputs) if isinstance(image, np.ndarray)}
        results: list[BatchedResult | Exception] = []
        if good:
            waiting = list(good.values())
            results = await running.batcher.submit(waiting, plan, priority=urgency.priority, deadline=urgency.deadline)
        answers: list[Answer | Rejection] = [i if isinstance(i, Rejection) else Rejection("internal", "") for i in inputs]
        ids = [notes.id if len(uploads) == 1 else f"{notes.id}-{position}" for position in range(len(uploads))]
        for position, result in zip(good, results, strict=True):
            if isinstance(result, Rejection):
                answers[position] = result
            elif isinstance(result, Exception):
                logs.LOGGER.error("an image failed", exc_info=result, extra={"facts": {"id": ids[position]}})
                answers[position] = Rejection("internal", "an unexpected error; the server's log has it")
            else:
                metrics.count_answer(
                    plan.policy,
                    result.result.configuration.id,
                    gmacs=result.result.macs / 1e9,
                    default=float(deployment.costs.default) / 1e9,
                    expected=None if point is None else point.macs / 1e9,
                    queued=result.queued_ms / 1000,
                )
                running.watch.see(result.result, plan)
                if running.shadow is not None:
                    running.shadow.offer(ids[position], good[position], result.result, plan)
                kept = self._record(deployment, ids[position], uploads[position], result.result, plan, options.keep)
                answers[position] = self._answer(deployment, ids[position], result, plan, point, options.top_k, kept)
        notes.moments += [("prepare", began, prepared), *_moments(results, prepared)]
        notes.facts |= {"images": len(uploads), "policy": plan.policy, "refused": len(uploads) - len(good)}
        return answers

    def _record(self, deployment: Deployment, id_: str, upload: Upload, result: ImageResult, plan: Plan, keep: bool) -> bool:
        """Record an answer; true where its picture is kept."""
        stored = StoredAnswer(
            id=id_,
            network=deployment.key,
            policy=plan.label,
            configuration=result.configuration.id,
            predicted=result.predicted,
            macs=result.macs,
        )
        size = upload.size if isinstance(upload, UploadFile) else None
        keeps = size is not None and self._recorder.keeps(id_, keep, size)
        keeps = self._recorder.add(stored, _bytes_of(upload) if keeps else None) and keeps
        return keeps

    def _answer(
        self,
        deployment: Deployment,
        id_: str,
        batched: BatchedResult,
        plan: Plan,
        point: OperatingPoint | None,
        top_k: int,
        kept: bool,
    ) -> Answer:
        """The body of an answer."""
        result = batched.result
        # Equal probabilities: the lower class first, as argmax has it.
        order = (-result.probabilities).argsort(kind="stable")[:top_k] if result.predicted >= 0 else ()
        return Answer(
            id=id_,
            predictions=[
                Prediction(name=deployment.classes[i], index=int(i), probability=float(result.probabilities[i]))
                for i in order
            ],
            policy=plan.policy,
            dial=plan.dial,
            expected=None
            if point is None
            else Expected(accuracy=point.accuracy, gmacs=point.macs / 1e9, guaranteed=point.guaranteed),
            configuration=describe_configuration(deployment, result.configuration),
            made_by=describe_maker(deployment, result.configuration),
            gmacs=result.macs / 1e9,
            default_gmacs=float(deployment.costs.default) / 1e9,
            queued_ms=batched.queued_ms,
            ran_ms=batched.ran_ms,
            batch=batched.batch,
            kept_seconds=self.settings.keep_seconds if kept else None,
        )

    async def feedback(self, given: Feedback) -> FeedbackAnswer:
        """Store the true class of an earlier answer; see :func:`serving.live.feedback.take_label`."""
        return await take_label(self.deployment, self.store, given, self.settings, self.earlier)

    async def gap(self) -> dict[str, Any]:
        """The gap to the oracle, offline and live, JSON-ready; the live one computed anew every few seconds at most.

        Raises:
            Rejection: the database cannot be reached.
        """
        async with self._counting:
            now = time.monotonic()
            if self._live is None or now - self._live[0] > _GAP_SECONDS:
                live = await in_database(live_gap, self.deployment, self.store)
                publish(live)
                warns = await asyncio.to_thread(metrics.warns_out_of_range)
                live["range"] = self._running.watch.report() | {"out_of_range": warns}
                self._live = now, live
        return {"network": self.deployment.name, "offline": offline_gap(self.deployment), "live": self._live[1]}

    def check_room(self, images: int = 1) -> None:
        """Raise Rejection (overloaded) where so many more images would not fit behind those that are decoded and wait."""
        self.batcher.check_room(images + self.preparation.pending)

    def describe(self) -> dict[str, Any]:
        """What is deployed, JSON-ready; made once."""
        return self._running.description


def _moments(results: Sequence[BatchedResult | Exception], since: int) -> list[tuple[str, int, int]]:
    """How long the first image waited and ran, for a request's trace."""
    first = next((result for result in results if isinstance(result, BatchedResult)), None)
    if first is None:
        return []
    ran = since + int(first.queued_ms * 1e6)
    return [("queue", since, ran), ("network", ran, ran + int(first.ran_ms * 1e6))]


def _bytes_of(upload: Upload) -> bytes | None:
    """As it was sent; None for a picture given in Python."""
    if not isinstance(upload, UploadFile):
        return None
    upload.file.seek(0)
    return upload.file.read()
