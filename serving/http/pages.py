"""Pages that are the same whatever is served: metrics, the OpenAPI document, and the page to try it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from serving.http.openapi import document
from serving.operation import metrics

_POLICY = (
    "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""The page may run its own script and talk to this server, nothing else; no other page may frame it."""


@cache
def _page() -> str:
    return (Path(__file__).parent / "templates" / "ui.html").read_text()


async def _ui(request: Request) -> Response:
    return HTMLResponse(_page(), headers={"Content-Security-Policy": _POLICY})


async def _home(request: Request) -> Response:
    return RedirectResponse("ui")


async def _metrics(request: Request) -> Response:
    return Response(await run_in_threadpool(metrics.exposition), media_type=metrics.CONTENT_TYPE)


async def _docs(request: Request) -> Response:
    return JSONResponse(document())


PAGES = (Route("/", _home), Route("/ui", _ui), Route("/metrics", _metrics), Route("/docs.json", _docs))
