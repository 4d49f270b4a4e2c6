"""Taking over a new run without a restart: POST /admin/reload, or SIGHUP to the server's first process.

What SERVING_NETWORK names now (where it leads to now, if it is a symbolic link) is opened beside what is served, and served
by all workers, or by none; see :mod:`serving.operation.takeover`.
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from circus.sighandler import SysHandler

from serving.classifier import Classifier
from serving.inference.deployment import Deployment
from serving.inference.finding import folder_of, target_of
from serving.operation import metrics
from serving.operation.logs import event
from serving.operation.takeover import TakeoverError, Takeovers, follow
from serving.running import Running
from serving.settings import ServingSettings


def take_over(takeovers: Takeovers, settings: ServingSettings) -> dict[str, Any]:
    """Have all workers serve what the settings name now; blocks meanwhile.

    Returns:
        What they serve, JSON-ready.

    Raises:
        TakeoverError: they serve on what they served; the message says why.
    """
    began = time.monotonic()
    try:
        if folder_of(settings) is None and Path(takeovers.agreed("")[1]).is_absolute():
            # Workers would take it for a network's name, and load PyTorch to find out that there is none.
            raise TakeoverError(f"SERVING_NETWORK={settings.network} leads to no folder")
        said = takeovers.take_over(target_of(settings))
    except TakeoverError as error:
        event(f"no other run is taken over: {error}", logging.ERROR)
        raise
    found = {**next(iter(said.values())).facts, "workers": sorted(said), "seconds": round(time.monotonic() - began, 1)}
    event("another run is served", facts=found)
    return found


def status(takeovers: Takeovers, settings: ServingSettings) -> dict[str, Any]:
    """What was agreed on, and what each worker says, JSON-ready."""
    number, target = takeovers.agreed(settings.network)
    said = {
        str(pid): {"number": one.number, "state": one.state, **one.facts} for pid, one in sorted(takeovers.said().items())
    }
    return {"number": number, "target": target, "workers": said}


async def follow_takeovers(takeovers: Takeovers, classifier: Classifier, number: int) -> None:
    """Let a worker take part, until this is cancelled.

    Args:
        takeovers: of the server.
        classifier: of the worker.
        number: of what it serves.
    """

    async def prepare(target: str) -> Running:
        try:
            return await classifier.beside(classifier.settings.model_copy(update={"network": target}))
        except BaseException:
            metrics.TAKEOVERS.labels("refused").inc()
            raise

    def serve(running: Running) -> None:
        tell_run(classifier.deployment, serves=False)
        classifier.take_over(running)
        takeovers.remember(classifier.earlier)
        tell_run(running.deployment, serves=True)
        metrics.TAKEOVERS.labels("taken_over").inc()

    async def drop(running: Running) -> None:
        await running.close()
        metrics.TAKEOVERS.labels("dropped").inc()

    async def settle() -> None:
        await classifier.retired()
        keep_from_the_collector()

    def facts() -> Mapping[str, Any]:
        deployment = classifier.deployment
        return {"network": deployment.name, "weights": deployment.weights, "policy": deployment.active.label}

    tell_run(classifier.deployment, serves=True)
    await follow(takeovers, number, prepare=prepare, serve=serve, drop=drop, settle=settle, facts=facts)


def keep_from_the_collector() -> None:
    """Free what nobody holds; the collector walks no more what stays, which would take it a third of a second each time."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def tell_run(deployment: Deployment, serves: bool) -> None:
    """Say in the metrics which run this process serves."""
    metrics.RUN.labels(deployment.name, deployment.weights).set(float(serves))


def hear_hangups(takeovers: Takeovers, settings: ServingSettings) -> None:
    """Take over at SIGHUP; call it in the main thread of the process that starts the workers, before it does.

    Circus, which supervises them, would start them anew at that signal: it is told not to listen to it.
    """
    SysHandler.SIGNALS = [number for number in SysHandler.SIGNALS if number != signal.SIGHUP]

    def hear(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=_try_to_take_over, args=(takeovers, settings), name="hangup").start()

    signal.signal(signal.SIGHUP, hear)


def ignore_hangups() -> None:
    """In a worker: a closed terminal tells all processes, and the first one asks the others for what is to be done."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _try_to_take_over(takeovers: Takeovers, settings: ServingSettings) -> None:
    with suppress(TakeoverError):  # the log has had its line
        take_over(takeovers, settings)
