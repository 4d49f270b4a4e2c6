"""The state of one app: what it serves, and whether it is ready."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from pathlib import Path
from typing import Any

from dynamic.errors import UserError
from serving.classifier import Classifier
from serving.errors import Rejection
from serving.http.connections import accept_one_at_a_time, tell_who_may_connect
from serving.operation import logs, metrics, tracing
from serving.operation.readiness import Readiness, drain_first, end_with_the_supervisor
from serving.operation.server_folder import remove_if_last
from serving.operation.supervision import end_this_worker, supervised
from serving.operation.takeover import TakeoverError, Takeovers
from serving.settings import ServingSettings
from serving.takeover import follow_takeovers, ignore_hangups, keep_from_the_collector, status, take_over


class Worker:
    """Loads a classifier in the background, and says when it answers.

    Args:
        settings: of the service.
        folder: of the server that this process is a worker of, see :func:`serving.operation.server_folder.enter`; signals,
            connections and traces of the process are the worker's then. Unless given, it is a guest in its process.
    """

    def __init__(self, settings: ServingSettings, folder: Path | None = None) -> None:
        self.settings = settings
        self.readiness = Readiness(folder)
        self._owns_process = folder is not None
        self._classifier: Classifier | None = None
        self._failed = False
        self._closing = False
        self._tried = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._takeovers = None if folder is None else Takeovers(folder)
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load and warm up: in the background, or before it takes connections where another process can take them."""
        self._closing = self._failed = False
        if self._takeovers is not None:
            self._takeovers.stopped.clear()
        self._tried.clear()
        if self._owns_process:
            self._enter_process(asyncio.get_running_loop())
        warm_up_first = self.readiness.others_ready()
        if not warm_up_first:
            self.readiness.publish("starting")
        self._loading = asyncio.create_task(self._load())
        if warm_up_first:
            await self._tried.wait()
            self.readiness.publish("starting" if self._classifier is None else "ready")

    async def stop(self) -> None:
        """Answer what was accepted, store what was answered."""
        self._closing = True
        if self._takeovers is not None:
            self._takeovers.stopped.set()
        for task in (self._loading, self._following):
            if task is not None:
                task.cancel()
        self.readiness.withdraw()
        try:
            if self._classifier is not None:
                await self._classifier.close()
        finally:
            self._classifier = None
            if self._owns_process:
                tracing.close()
                remove_if_last()
            logs.event("stopped")

    @property
    def ready(self) -> bool:
        """Whether every process of the server that accepts connections would answer a request."""
        alive = self._classifier is not None and not self._classifier.batcher.failed
        return alive and not self._closing and self.readiness.all_ready()

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

    async def take_over(self) -> dict[str, Any]:
        """Have all workers of the server serve what the settings name now.

        Raises:
            Rejection: they serve on what they serve.
        """
        try:
            return await asyncio.to_thread(take_over, self._server, self.settings)
        except TakeoverError as error:
            raise Rejection("conflict", f"no other run is taken over: {error}") from None

    def served(self) -> dict[str, Any]:
        """Which run each worker of the server serves, JSON-ready."""
        return status(self._server, self.settings)

    @property
    def _server(self) -> Takeovers:
        if self._takeovers is None:
            raise Rejection("conflict", "no other run is taken over: this app is a guest in its process, not a server's")
        return self._takeovers

    def _enter_process(self, loop: asyncio.AbstractEventLoop) -> None:
        accept_one_at_a_time(loop, lambda address: tell_who_may_connect(address, self.settings))
        tracing.set_up()
        end_with_the_supervisor()
        ignore_hangups()
        drain_first(self.settings.drain_seconds, self._drain, loop)

    def _drain(self) -> None:
        """Not ready, but answering on."""
        self.readiness.publish("draining")
        logs.event("draining", facts={"seconds": self.settings.drain_seconds})

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
            number, target = 0, self.settings.network
            if self._takeovers is not None:  # a link may lead elsewhere since
                number, target = self._takeovers.agreed(target)
            give_up = end_this_worker if self._owns_process else lambda: None
            self._classifier = await Classifier.open(self.settings.model_copy(update={"network": target}), give_up)
        except UserError as error:
            logs.event(f"cannot serve: {error}", logging.ERROR)
        except Exception:
            logs.LOGGER.exception("cannot serve")
        else:
            if self._owns_process:
                keep_from_the_collector()
            if self._takeovers is not None:
                self._classifier.earlier = self._takeovers.earlier()
                following = functools.partial(follow_takeovers, self._takeovers, self._classifier, number)
                part = supervised("takeover", following, ended=lambda: self._closing, give_up=give_up)
                self._following = asyncio.create_task(part)
            if not self._closing:
                self.readiness.publish("ready")
            metrics.STARTS.inc()
            deployment = self._classifier.deployment
            active = {"policy": deployment.active.policy, "dial": deployment.active.dial, "why": deployment.why_active}
            logs.event("ready", facts={"network": deployment.name, "seconds": round(time.monotonic() - began, 1)} | active)
