"""The state of one app: what it serves, and whether it is ready."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import time
from pathlib import Path

from dynamic.errors import UserError
from serving.classifier import Classifier
from serving.errors import Rejection
from serving.http.connections import accept_one_at_a_time, tell_who_may_connect
from serving.operation import logs, metrics, tracing
from serving.operation.readiness import Readiness, drain_first, end_with_the_supervisor
from serving.operation.server_folder import remove_if_last
from serving.operation.supervision import end_this_worker
from serving.settings import ServingSettings


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

    async def start(self) -> None:
        """Load and warm up: in the background, or before it takes connections where another process can take them."""
        self._closing = self._failed = False
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
        if self._loading is not None:
            self._loading.cancel()
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

    def _enter_process(self, loop: asyncio.AbstractEventLoop) -> None:
        accept_one_at_a_time(loop, lambda address: tell_who_may_connect(address, self.settings))
        tracing.set_up()
        end_with_the_supervisor()
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
            self._classifier = await Classifier.open(self.settings, end_this_worker if self._owns_process else lambda: None)
        except UserError as error:
            logs.event(f"cannot serve: {error}", logging.ERROR)
        except Exception:
            logs.LOGGER.exception("cannot serve")
        else:
            if self._owns_process:
                # What is loaded now stays: walking it takes the collector a third of a second, again and again.
                gc.collect()
                gc.freeze()
            if not self._closing:
                self.readiness.publish("ready")
            metrics.STARTS.inc()
            deployment = self._classifier.deployment
            active = {"policy": deployment.active.policy, "dial": deployment.active.dial, "why": deployment.why_active}
            logs.event("ready", facts={"network": deployment.name, "seconds": round(time.monotonic() - began, 1)} | active)
