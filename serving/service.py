"""The service: bentoml serve

    curl -F image=@cat.jpg localhost:3000/v1/classify

:mod:`serving.settings` lists what environment variables can change. The module is imported by the supervisor too, so the
network is loaded when a worker starts, in the background: until it is warmed up, /readyz answers 503.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
# BentoML records a trace of every request, for no one unless an exporter is configured: a quarter of its cost.
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

import bentoml
import PIL.Image
from starlette.responses import Response

from dynamic.errors import UserError
from dynamic.resources import keep_freed_memory
from serving.classifier import Classifier
from serving.errors import Rejection
from serving.http.connections import ConnectionLimits, accept_one_at_a_time, limit_connections, tell_who_may_connect
from serving.http.front import ANSWER_SECONDS, FrontDoor
from serving.http.pages import PAGES
from serving.http.urgency import URGENCY
from serving.inference.finding import target_of
from serving.operation import logs, metrics, tracing
from serving.operation.readiness import Readiness, drain_first, end_with_the_supervisor
from serving.operation.server_folder import enter, remove_if_last, supervisor
from serving.operation.supervision import failed_parts, supervised
from serving.operation.takeover import TakeoverError, Takeovers
from serving.schema import (
    Answer,
    BatchAnswer,
    BatchInput,
    ClassifyInput,
    ErrorBody,
    FeedbackAnswer,
    FeedbackInput,
    Item,
    Options,
)
from serving.settings import ServingSettings, read_settings
from serving.startup import check_before_start
from serving.takeover import follow_takeovers, hear_hangups, ignore_hangups, keep_from_the_collector, status, take_over

P = ParamSpec("P")
T = TypeVar("T")


def _settings() -> ServingSettings:
    try:
        settings = read_settings()
        check_before_start(settings)
        tracing.check()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    return settings


SETTINGS = _settings()
TAKEOVERS = Takeovers(enter())  # before the workers start: they look for the server's folder in their environment
if supervisor() is None:
    TAKEOVERS.begin(target_of(SETTINGS))


def _rejecting(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | Response]]:
    """Answer a rejection as JSON; BentoML would log a stack trace and mask it."""

    @functools.wraps(method)
    async def answering(*args: P.args, **kwargs: P.kwargs) -> T | Response:
        try:
            return await method(*args, **kwargs)
        except Rejection as rejection:
            return rejection.response()

    return answering


@bentoml.service(
    name="dynamic_classifier",
    workers=SETTINGS.workers,
    traffic={"timeout": SETTINGS.upload_seconds + ANSWER_SECONDS + 10},  # the front door's own limits come first
    metrics={"enabled": False},  # its labels hold every path a stranger tries; ours are at the same /metrics
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(PAGES, path="/")
class DynamicClassifier:
    """Classifies pictures with a network whose strides, dilations and kernel sizes a policy chooses for each picture."""

    def __init__(self) -> None:
        logs.set_up(SETTINGS.log_level)
        keep_freed_memory(arenas=1)
        self._classifier: Classifier | None = None
        self._failed = False
        self._closing = False
        self._following: asyncio.Task[None] | None = None
        self._readiness = Readiness()
        self._tried = asyncio.Event()

    @bentoml.on_deployment
    @staticmethod
    def deploy() -> None:
        """In the process that starts the workers, before it does."""
        logs.set_up(SETTINGS.log_level)
        hear_hangups(TAKEOVERS, SETTINGS)

    @bentoml.on_startup
    async def start(self) -> None:
        """Load and warm up: in the background, or before it takes connections where another process can take them."""
        loop = asyncio.get_running_loop()
        accept_one_at_a_time(loop, lambda address: tell_who_may_connect(address, SETTINGS))
        tracing.set_up()
        end_with_the_supervisor()
        ignore_hangups()
        drain_first(SETTINGS.drain_seconds, self._drain, loop)
        warm_up_first = self._readiness.others_ready()
        if not warm_up_first:
            self._readiness.publish("starting")
        self._loading = asyncio.create_task(self._load())
        if warm_up_first:
            await self._tried.wait()
            self._readiness.publish("starting" if self._classifier is None else "ready")

    async def _load(self) -> None:
        """Try until it works: a database or a file that is away may come back."""
        for seconds in itertools.chain((1, 2, 5, 10), itertools.repeat(30)):
            await self._try_to_load()
            self._tried.set()
            if self._classifier is not None:
                return
            self._failed = True
            await asyncio.sleep(seconds)

    async def _try_to_load(self) -> None:
        began = time.monotonic()
        try:
            number, target = TAKEOVERS.agreed(SETTINGS.network)
            self._classifier = await Classifier.open(SETTINGS.model_copy(update={"network": target}))
        except UserError as error:
            logs.event(f"cannot serve: {error}", logging.ERROR)
        except Exception:
            logs.LOGGER.exception("cannot serve")
        else:
            keep_from_the_collector()
            following = functools.partial(follow_takeovers, TAKEOVERS, self._classifier, number)
            part = supervised("takeover", following, ended=lambda: self._closing)
            self._following = asyncio.create_task(part)
            if not self._closing:
                self._readiness.publish("ready")
            metrics.STARTS.inc()
            deployment = self._classifier.deployment
            active = {"policy": deployment.active.policy, "dial": deployment.active.dial, "why": deployment.why_active}
            logs.event("ready", facts={"network": deployment.name, "seconds": round(time.monotonic() - began, 1)} | active)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Answer what was accepted, store what was answered."""
        self._closing = True
        self._loading.cancel()
        if self._following is not None:
            self._following.cancel()
        self._readiness.withdraw()
        try:
            if self._classifier is not None:
                await self._classifier.close()
        finally:
            tracing.close()
            remove_if_last()
            logs.event("stopped")

    def _drain(self) -> None:
        """Not ready, but answering on."""
        self._readiness.publish("draining")
        logs.event("draining", facts={"seconds": SETTINGS.drain_seconds})

    async def __is_ready__(self) -> bool:
        return not self._closing and not failed_parts() and self._readiness.all_ready()

    @property
    def classifier(self) -> Classifier:
        """The classifier. Raises Rejection while it is loaded, and when the server shuts down."""
        if self._classifier is None or self._closing:
            if self._failed:
                raise Rejection(
                    "starting", "the server could not load its network, and tries again: its log says why", retry_after=30
                )
            raise Rejection("starting", "the server is not warmed up: try again", retry_after=2)
        return self._classifier

    async def reload(self) -> dict[str, Any]:
        """Have all workers serve what the settings name now. Raises Rejection where they serve on what they serve."""
        try:
            return await asyncio.to_thread(take_over, TAKEOVERS, SETTINGS)
        except TakeoverError as error:
            raise Rejection("conflict", f"no other run is taken over: {error}") from None

    def run_status(self) -> dict[str, Any]:
        """Which run each worker serves, JSON-ready."""
        return status(TAKEOVERS, SETTINGS)

    @bentoml.api(route="/v1/classify", input_spec=ClassifyInput)
    @_rejecting
    async def classify(
        self,
        image: PIL.Image.Image,
        policy: str | None = None,
        max_gmacs: float | None = None,
        top_k: int = 5,
        configuration: str | None = None,
        keep: bool = False,
    ) -> Answer:
        """Classify one picture under the active policy, another one, a budget, or a configuration."""
        options = Options.read(policy=policy, max_gmacs=max_gmacs, top_k=top_k, configuration=configuration, keep=keep)
        item = (await self.classifier.answer([image], options, URGENCY.get()))[0]
        if isinstance(item, Rejection):
            raise item
        return item

    @bentoml.api(route="/v1/classify_batch", input_spec=BatchInput)
    @_rejecting
    async def classify_batch(
        self,
        images: list[PIL.Image.Image],
        policy: str | None = None,
        max_gmacs: float | None = None,
        top_k: int = 5,
        configuration: str | None = None,
        keep: bool = False,
    ) -> BatchAnswer:
        """Classify many pictures; each has its own answer or error."""
        options = Options.read(policy=policy, max_gmacs=max_gmacs, top_k=top_k, configuration=configuration, keep=keep)
        items = await self.classifier.answer(images, options, URGENCY.get())
        refused = [item for item in items if isinstance(item, Rejection)]
        if refused and len(refused) == len(items):
            raise refused[0]
        for rejection in refused:
            metrics.REJECTIONS.labels(rejection.code).inc()
        return BatchAnswer(results=[_item(item) for item in items])

    @bentoml.api(route="/v1/feedback", input_spec=FeedbackInput)
    @_rejecting
    async def feedback(self, id: str, label: str) -> FeedbackAnswer:
        """Store the true class of an earlier answer; it is on disk when this returns."""
        return await self.classifier.feedback(id, label)


limit_connections(ConnectionLimits.of(SETTINGS))
DynamicClassifier.add_asgi_middleware(FrontDoor, settings=SETTINGS)  # type: ignore[attr-defined]


def _item(found: Answer | Rejection) -> Item:
    if isinstance(found, Rejection):
        return Item(answer=None, error=ErrorBody(code=found.code, message=found.message))
    return Item(answer=found, error=None)
