"""The service as an application (ASGI): its pages, its state, its start and end.

    app = create_app(ServingSettings(network="matched", database="none"))
    with starlette.testclient.TestClient(app) as client: ...

``bentoml serve`` runs it in worker processes (:mod:`serving.service`). All state is on the app: two apps of different
settings live in one process without knowing of each other. Metrics are the process's, as Prometheus' client has them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serving.errors import Rejection, rejection_for
from serving.http.asked import asked_of
from serving.http.front import FrontDoor
from serving.http.pages import PAGES
from serving.operation import metrics
from serving.schema import Answer, BatchAnswer, ErrorBody, Item
from serving.settings import ServingSettings
from serving.worker import Worker


def create_app(settings: ServingSettings, folder: Path | None = None) -> Starlette:
    """The service; ``app.state.worker`` is its state, a :class:`Worker`.

    Args:
        settings: of the service.
        folder: of the server that this process is a worker of; see :class:`Worker`.
    """
    worker = Worker(settings, folder)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await worker.start()
        try:
            yield
        finally:
            await worker.stop()

    app = Starlette(
        routes=[
            Route("/v1/classify", classify, methods=["POST"]),
            Route("/v1/classify_batch", classify_batch, methods=["POST"]),
            Route("/v1/feedback", feedback, methods=["POST"]),
            Route("/v1/gap", _gap),
            Route("/v1/network", _network),
            Route("/admin/reload", _reload, methods=["GET", "POST"]),
            Route("/livez", _livez),
            Route("/healthz", _livez),
            Route("/readyz", _readyz),
            *PAGES,
        ],
        middleware=[
            Middleware(
                FrontDoor,
                settings=settings,
                check_room=lambda: worker.classifier.check_room(),
                draining=lambda: worker.readiness.draining,
                folder=folder,
            )
        ],
        exception_handlers={HTTPException: _refuse},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # to an address that the client's own Host names
    app.state.worker = worker
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    """No such page, or not by this method: in the one shape, which the front door gives it."""
    assert isinstance(error, HTTPException)
    raise rejection_for(error.status_code, error.headers)


async def classify(request: Request) -> Response:
    """Classify one picture under the active policy, another one, a budget, or a configuration."""
    (found,) = await _answers(request)
    if isinstance(found, Rejection):
        raise found
    return _json(found)


async def classify_batch(request: Request) -> Response:
    """Classify many pictures; each has its own answer or error."""
    found = await _answers(request)
    refused = [item for item in found if isinstance(item, Rejection)]
    if refused and len(refused) == len(found):
        raise refused[0]
    for rejection in refused:
        metrics.REJECTIONS.labels(rejection.code).inc()
    return _json(BatchAnswer(results=[_item(item) for item in found]))


async def feedback(request: Request) -> Response:
    """Store the true class of an earlier answer; it is on disk when this returns."""
    given = asked_of(request).feedback
    assert given is not None, "the front door refuses it"
    return _json(await _worker(request).classifier.feedback(given))


async def _gap(request: Request) -> Response:
    return JSONResponse(await _worker(request).classifier.gap())


async def _network(request: Request) -> Response:
    return JSONResponse(_worker(request).classifier.describe())


async def _reload(request: Request) -> Response:
    worker = _worker(request)
    return JSONResponse(await worker.take_over() if request.method == "POST" else worker.served())


async def _livez(request: Request) -> Response:
    return PlainTextResponse("\n")


async def _readyz(request: Request) -> Response:
    if not _worker(request).ready:
        raise Rejection("starting", "not warmed up yet", retry_after=1)
    return PlainTextResponse("\n")


def _worker(request: Request) -> Worker:
    worker = request.app.state.worker
    assert isinstance(worker, Worker)
    return worker


async def _answers(request: Request) -> list[Answer | Rejection]:
    asked = asked_of(request)
    return await _worker(request).classifier.answer(asked.pictures, asked.options, asked.urgency, asked.notes)


def _item(found: Answer | Rejection) -> Item:
    if isinstance(found, Rejection):
        return Item(answer=None, error=ErrorBody(code=found.code, message=found.message))
    return Item(answer=found, error=None)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
