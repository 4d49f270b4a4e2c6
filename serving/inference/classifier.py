"""From uploads to answers: decode, batch, name the classes, count, remember. Nothing here knows BentoML."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Self, TypeVar

import PIL.Image
import torch
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import UploadFile
from torch import Tensor

from dynamic.configuration import Configuration
from selector.policies.base import OperatingPoint
from serving.errors import Rejected
from serving.http.schema import (
    Answer,
    Expected,
    Feedback,
    FeedbackAnswer,
    Layer,
    Options,
    Prediction,
    RunConfiguration,
    rejected,
)
from serving.inference.batcher import Batcher, Done
from serving.inference.deployment import Plan, Served, open_served
from serving.inference.engine import answer
from serving.inference.pictures import decode, open_picture, webp_pixels
from serving.live.gap import offline_gap
from serving.live.live import Evaluator, Recorder, live_gap, publish
from serving.live.store import Answer as StoredAnswer
from serving.live.store import Store, new_id
from serving.operation import logs, metrics
from serving.settings import ServingSettings

_DECODERS = 2
_AT_ONCE = 8
_REQUEST = 4
"""Times the pixels that one picture may have: of all pictures of a request."""
_SMALL = 100_000
"""Pixels of all pictures of a request that are decoded in a millisecond or so."""
_RETRIES = 5
_RECENT = 30.0
_GAP_SECONDS = 2.0

_ID = re.compile(r"[0-9a-f]{20,40}(-\d{1,4})?")
_DONE = Rejected("internal", "")

T = TypeVar("T")

Upload = UploadFile | PIL.Image.Image


class Classifier:
    """A network that answers, and what it remembers; made by :meth:`open`, in the event loop that it is used in.

    Args:
        settings: of the service.
        served: what answers.
        store: the database.
    """

    def __init__(self, settings: ServingSettings, served: Served, store: Store) -> None:
        self.settings, self.served, self.store = settings, served, store
        self.batcher = Batcher(
            functools.partial(answer, served),
            max_batch=settings.max_batch,
            max_wait=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
            threads=settings.threads,
            observe=_observe_batch,
            watch=metrics.QUEUE.set,
        )
        self._preparing = 0
        self._canvases = asyncio.Semaphore(_DECODERS)
        self._description = self._describe()
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder", torch.set_num_threads, (1,))
        self._recorder = Recorder(store, settings)
        self._evaluator = Evaluator(served, store, settings, lambda: not self.batcher.busy)
        self._live: tuple[float, dict[str, Any]] | None = None
        self._counting = asyncio.Lock()

    @classmethod
    async def open(cls, settings: ServingSettings) -> Self:
        """Load, connect and warm up. Raises UserError where the settings name what is not there."""
        served = await asyncio.to_thread(open_served, settings)
        store = await asyncio.to_thread(Store, settings.database)
        # Counting the MACs of every configuration for the first time takes seconds where there are hundreds.
        await asyncio.to_thread(lambda: [served.macs(c) for c in served.configurations])
        classifier = cls(settings, served, store)
        try:
            await classifier._warm_up()
        except BaseException:
            await classifier.close()
            raise
        return classifier

    async def close(self) -> None:
        """Answer what was accepted, store what was answered."""
        await self.batcher.close()
        await asyncio.to_thread(self._recorder.close)
        await asyncio.to_thread(self._evaluator.close)
        self.store.close()
        self._decoders.shutdown()

    async def answer(self, uploads: Sequence[Upload], options: Options) -> list[Answer | Rejected]:
        """Each image's own answer, or why it has none.

        Raises:
            Rejected: options that cannot be had, or a full queue: none is answered.
        """
        served = self.served
        plan, point = served.plan(options.policy, options.max_gmacs, options.configuration)
        self.check_room(len(uploads))
        self._preparing += len(uploads)
        # Opening a WebP allocates its canvas, unlike other formats: few requests may hold large ones at a time.
        heavy = any(isinstance(upload, UploadFile) and webp_pixels(upload.file) > _SMALL for upload in uploads)
        try:
            async with self._canvases if heavy else nullcontext():
                inputs = await self._prepared(uploads)
        finally:
            self._preparing -= len(uploads)
        good = {position: found for position, found in enumerate(inputs) if isinstance(found, Tensor)}
        results = await self.batcher.submit(list(good.values()), plan) if good else []
        answers: list[Answer | Rejected] = [f if isinstance(f, Rejected) else Rejected("internal", "") for f in inputs]
        notes = logs.REQUEST.get()
        first = notes.id if notes else new_id()
        ids = [first if len(uploads) == 1 else f"{first}-{position}" for position in range(len(uploads))]
        for position, result in zip(good, results, strict=True):
            if isinstance(result, Exception):
                logs.LOGGER.error("an image failed", exc_info=result, extra={"facts": {"id": ids[position]}})
                answers[position] = Rejected("internal", "an unexpected error; the server's log has it")
            else:
                answers[position] = self._recorded(ids[position], uploads[position], result, plan, point, options)
        if notes is not None:
            notes.facts |= {"images": len(uploads), "policy": plan.policy, "refused": len(uploads) - len(good)}
        return answers

    async def _prepared(self, uploads: Sequence[Upload]) -> list[Tensor | Rejected]:
        """What the network reads of each picture; large ones are decoded in threads."""
        limit = self.settings.max_megapixels
        opened: list[PIL.Image.Image | Rejected] = []
        pixels = 0
        for upload in uploads:
            opened.append(_opened(upload, limit))
            pixels += _pixels_of(opened[-1])
            if pixels > _REQUEST * limit * 1e6:
                raise Rejected("too_large", f"the pictures have more than {_REQUEST * limit:g} megapixels together")
        if pixels <= _SMALL:  # quicker than handing them to a thread
            return _tensors(self.served, opened)
        loop = asyncio.get_running_loop()
        parts = [opened[at : at + _AT_ONCE] for at in range(0, len(opened), _AT_ONCE)]
        opened.clear()
        made = await asyncio.gather(*(loop.run_in_executor(self._decoders, _tensors, self.served, part) for part in parts))
        return [found for part in made for found in part]

    def _recorded(
        self, id_: str, upload: Upload, done: Done, plan: Plan, point: OperatingPoint | None, options: Options
    ) -> Answer:
        """Count and remember an answer, and keep its image if that was asked for."""
        served = self.served
        answered, default = done.answered, float(served.costs.default)
        # Equal probabilities: the lower class first, as argmax has it.
        order = (-answered.probabilities).argsort(kind="stable")[: options.top_k]
        finite = bool(answered.probabilities.any())
        predicted = int(answered.probabilities.argmax()) if finite else -1
        stored = StoredAnswer(id_, served.key, plan.label, answered.configuration.id, predicted, answered.macs)
        size = upload.size if isinstance(upload, UploadFile) else None
        keeps = size is not None and self._recorder.keeps(id_, options.keep, size)
        keeps = self._recorder.add(stored, _bytes_of(upload) if keeps else None) and keeps
        metrics.IMAGES.labels(plan.policy).inc()
        metrics.CONFIGURATIONS.labels(answered.configuration.id).inc()
        metrics.GMACS.inc(answered.macs / 1e9)
        metrics.GMACS_DEFAULT.inc(default / 1e9)
        metrics.GMACS_SAVED.inc((default - answered.macs) / 1e9)
        return Answer(
            id=id_,
            predictions=[
                Prediction(name=served.classes[i], index=int(i), probability=float(answered.probabilities[i])) for i in order
            ]
            if finite
            else [],
            policy=plan.policy,
            dial=plan.dial,
            expected=None if point is None else _expected(point),
            configuration=_configuration(served, answered.configuration),
            gmacs=answered.macs / 1e9,
            default_gmacs=default / 1e9,
            queued_ms=done.queued_ms,
            ran_ms=done.ran_ms,
            batch=done.batch,
            kept_seconds=self.settings.keep_seconds if keeps else None,
        )

    async def feedback(self, id_: str, label: str | int) -> FeedbackAnswer:
        """Store the true class of an earlier answer; it is on disk when this returns.

        Raises:
            Rejected: no such answer or class.
        """
        try:
            given = Feedback(id=id_, label=label)
        except ValidationError as error:
            raise rejected(error) from None
        index = _class_index(self.served, given.label)
        labelled = None
        for _ in range(_RETRIES if _ID.fullmatch(given.id) else 0):
            labelled = await self._in_database(self.store.add_label, given.id, self.served.key, index)
            # Another process may still be about to record an answer that it has just given.
            if labelled is not None or not _recent(given.id):
                break
            await asyncio.sleep(0.1)
        if labelled is None and _ID.fullmatch(given.id) and _recent(given.id):
            raise Rejected("unavailable", f"no answer {given.id!r} is recorded yet: try again", retry_after=1)
        if labelled is None:
            raise Rejected("not_found", f"no answer {given.id!r} in the last {self.settings.remember_hours:g} hours")
        metrics.LABELS.inc()
        return FeedbackAnswer(id=given.id, label=self.served.classes[index], index=index, right=labelled.predicted == index)

    async def gap(self) -> dict[str, Any]:
        """The gap to the oracle, offline and live; the live one computed anew every few seconds at most."""
        async with self._counting:
            now = time.monotonic()
            if self._live is None or now - self._live[0] > _GAP_SECONDS:
                live = await self._in_database(live_gap, self.served, self.store)
                publish(live)
                self._live = now, live
        return {"network": self.served.name, "offline": offline_gap(self.served), "live": self._live[1]}

    async def _in_database(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.to_thread(work, *arguments)
        except SQLAlchemyError:
            logs.LOGGER.exception("the database failed")
            raise Rejected("unavailable", "the database cannot be reached: try again", retry_after=5) from None

    def check_room(self, images: int = 1) -> None:
        """Raise Rejected (overloaded) where so many more images would not fit behind those that are decoded and wait."""
        self.batcher.check_room(images + self._preparing)

    def describe(self) -> dict[str, Any]:
        """What is served, JSON-ready."""
        return self._description

    def _describe(self) -> dict[str, Any]:
        served = self.served
        return {
            "network": served.name,
            "resolution": served.resolution,
            "classes": served.classes,
            "active": {"policy": served.active.policy, "dial": served.active.dial, "objective": served.objective},
            "default": _configuration(served, served.default).model_dump(),
            "configurations": [_configuration(served, c).model_dump() for c in served.configurations],
            "policies": [_described(served, name) for name in served.policies],
            "max_images": self.settings.max_images,
            "keep": self.settings.keep,
            "keep_seconds": self.settings.keep_seconds,
        }

    async def _warm_up(self) -> None:
        stream = torch.Generator().manual_seed(0)
        side = self.served.resolution
        for plan in (self.served.active, self.served.plan(policy="default")[0]):
            for count in (1, 1, 8):
                images = torch.randn(count, 3, side, side, generator=stream)
                for result in await self.batcher.submit(list(images), plan):
                    if isinstance(result, Exception):
                        raise result


def _observe_batch(images: int, seconds: float) -> None:
    metrics.BATCH.observe(images)
    metrics.BATCH_SECONDS.observe(seconds)


def _opened(upload: Upload, max_megapixels: float) -> PIL.Image.Image | Rejected:
    if not isinstance(upload, UploadFile):
        return upload
    try:
        return open_picture(upload.file, max_megapixels)
    except Rejected as rejection:
        return rejection.with_traceback(None)  # which would hold the picture


def _pixels_of(picture: PIL.Image.Image | Rejected) -> int:
    return 0 if isinstance(picture, Rejected) else picture.width * picture.height


def _tensors(served: Served, opened: list[PIL.Image.Image | Rejected]) -> list[Tensor | Rejected]:
    """Of each picture; ``opened`` is emptied, since a decoded picture is held no longer than it takes."""
    found = []
    for position, picture in enumerate(opened):
        opened[position] = _DONE
        found.append(picture if isinstance(picture, Rejected) else _tensor(served, picture))
        del picture
    return found


def _tensor(served: Served, picture: PIL.Image.Image) -> Tensor | Rejected:
    try:
        return served.transform(decode(picture))
    except Rejected as rejection:
        return rejection.with_traceback(None)
    except Exception:
        logs.LOGGER.exception("a picture could not be prepared")
        return Rejected("bad_image", "the picture cannot be prepared")


def _bytes_of(upload: Upload) -> bytes | None:
    """As it was sent; None for a picture given in Python."""
    if not isinstance(upload, UploadFile):
        return None
    upload.file.seek(0)
    return upload.file.read()


def _class_index(served: Served, label: str | int) -> int:
    """Of a number, or of text that is a class's name, or else a number."""
    if isinstance(label, str) and label in served.classes:
        return served.classes.index(label)
    digits = str(label)
    if digits.isascii() and digits.isdigit() and int(digits) < len(served.classes):
        return int(digits)
    few = f"one of {', '.join(served.classes)}" if len(served.classes) <= 20 else f"such as {served.classes[0]!r}"
    raise Rejected("invalid", f"label must be the name of a class ({few}) or an index below {len(served.classes)}")


def _recent(id_: str) -> bool:
    try:
        return abs(time.time() - int(id_[:11], 16) / 1000) < _RECENT
    except ValueError:
        return False


def _expected(point: OperatingPoint) -> Expected:
    return Expected(accuracy=point.accuracy, gmacs=point.macs / 1e9)


def _configuration(served: Served, configuration: Configuration) -> RunConfiguration:
    options = zip(configuration.stride, configuration.dilation, configuration.kernel_size, strict=True)
    layers = [
        Layer(layer="ABCDEF"[position], stride=stride, dilation=dilation, kernel_size=kernel)
        for position, (stride, dilation, kernel) in enumerate(options)
    ]
    return RunConfiguration(id=configuration.id, layers=layers, gmacs=served.macs(configuration) / 1e9)


def _described(served: Served, name: str) -> dict[str, Any]:
    policy = served.policies[name]
    points = [{"dial": p.dial, "accuracy": p.accuracy, "gmacs": p.macs / 1e9} for p in policy.points_]
    return {"name": name, "learned": policy.learned, "points": points}
