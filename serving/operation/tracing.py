"""OpenTelemetry spans of requests, if an exporter is configured; else nothing is imported and nothing is made.

OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 bentoml serve     # needs learned-selector[tracing]

One span a request, under the caller's where it sends ``traceparent``; below it what the images waited for and ran in. The
spans are made when the request is over, from moments that were noted on its way.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dynamic.errors import UserError
from serving.operation.logs import Notes

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER = "opentelemetry.exporter.otlp.proto.http"

_provider: Any = None
_tracer: Any = None


def wanted() -> bool:
    """Whether an exporter is configured."""
    return any(os.environ.get(name) for name in _VARIABLES)


def check() -> None:
    """Raise UserError where an exporter is configured that is not installed."""
    if not wanted():
        return
    found = None
    with suppress(ModuleNotFoundError):
        found = importlib.util.find_spec(_EXPORTER)
    if found is None:
        name = next(name for name in _VARIABLES if os.environ.get(name))
        raise UserError(f"{name} is set, but its exporter is not installed: pip install 'learned-selector[tracing]'")


def set_up() -> None:
    """Export the spans of this process from now on, if an exporter is configured."""
    global _provider, _tracer
    if not wanted():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "dynamic-classifier")
    _provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("serving")


def record(name: str, notes: Notes, facts: Mapping[str, Any], seconds: float, headers: Mapping[str, str]) -> None:
    """Record a request that is over.

    Args:
        name: of the span.
        notes: of the request; its moments become spans below.
        facts: attributes of the span.
        seconds: that it took, until now.
        headers: of the request; ``traceparent`` names the caller's span.
    """
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.trace.status import StatusCode

    end = time.time_ns()
    carrier = {key: headers[key] for key in ("traceparent", "tracestate") if key in headers}
    context = TraceContextTextMapPropagator().extract(carrier)
    attributes = {key: value for key, value in facts.items() if isinstance(value, str | bool | int | float)}
    span = _tracer.start_span(
        name, context=context, kind=SpanKind.SERVER, attributes=attributes, start_time=end - int(seconds * 1e9)
    )
    if int(facts.get("status", 200)) >= 500:
        span.set_status(StatusCode.ERROR)
    for part, began, ended in notes.moments:
        _tracer.start_span(part, context=set_span_in_context(span), start_time=began).end(ended)
    span.end(end)


def close() -> None:
    """Export what is left."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None
