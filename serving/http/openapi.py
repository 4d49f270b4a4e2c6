"""The service's OpenAPI document: /docs.json. BentoML's own knows no other errors than its own, and no GET."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.errors import CODES
from serving.http.urgency import PARAMETERS
from serving.schema import Answer, BatchAnswer, Failure, Feedback, FeedbackAnswer, Options

_REF = "#/components/schemas/{model}"
_ANY = ("malformed", "timeout", "head_too_large", "overloaded")
"""Answers that any request may get: it is no HTTP, its head is too slow or too large, there are too many connections."""
_WHO = (*_ANY, "unauthorized", "forbidden")
_BODY = (*_WHO, "rate_limited", "too_large", "unsupported_media_type", "bad_image", "invalid", "starting")
_OPTIONAL_KEY: list[dict[str, list[str]]] = [{}, {"key": []}, {"bearer": []}]
_TEXT: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
_JSON: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_PICTURES = "image/jpeg, image/png, image/webp"


def _label(answer: str) -> dict[str, Any]:
    """What may follow an answer that lies at ``answer`` of the body: its label, here its own first class."""
    said = {"id": f"$response.body#{answer}/id", "label": f"$response.body#{answer}/predictions/0/index"}
    return {"label": {"operationId": "feedback", "requestBody": said, "description": "Label it by /v1/feedback"}}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document, JSON-ready."""
    models: list[type[BaseModel]] = [Answer, BatchAnswer, Failure, Feedback, FeedbackAnswer]
    _, schemas = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    picture = {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP, 8 bits of grey or RGB"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A dynamic network under a learned selector",
            "version": _version(),
            "description": "Every image runs its own strides, dilations and kernel sizes. Multiply-accumulates (MACs) "
            "count one multiply-add as 1; GMACs are 10^9 of them.",
        },
        "paths": {
            "/v1/classify": _post(
                "Classify one picture", _form({"image": picture}), Answer, _BODY, PARAMETERS, links=_label("")
            ),
            "/v1/classify_batch": _post(
                "Classify many pictures; a bad one has an error in its place. If all are bad, the request is",
                _form({"images": {"type": "array", "items": picture, "minItems": 1}}),
                BatchAnswer,
                _BODY,
                PARAMETERS,
                links=_label("/results/0/answer"),
            ),
            "/v1/feedback": _post(
                "Store the true class of an earlier answer",
                {
                    kind: {"schema": {"$ref": _REF.format(model="Feedback")}}
                    for kind in ("application/json", "multipart/form-data")
                },
                FeedbackAnswer,
                (
                    *_WHO,
                    "rate_limited",
                    "not_found",
                    "conflict",
                    "too_large",
                    "unsupported_media_type",
                    "invalid",
                    "unavailable",
                    "starting",
                ),
                name="feedback",
            ),
            "/v1/gap": _get(
                "The gap to the oracle: on the run's test split, and on labelled live traffic",
                _JSON,
                ("invalid", "unavailable", "starting"),
            ),
            "/v1/network": _get(
                "What is served: classes, configurations, policies and their operating points",
                _JSON,
                ("invalid", "starting"),
            ),
            "/admin/reload": {
                **_get("Which run each worker serves", _JSON, ("conflict",)),
                "post": {
                    "summary": "Have all workers serve the run that SERVING_NETWORK leads to now, or none",
                    "responses": _responses(_JSON, (*_WHO, "conflict", "starting")),
                },
            },
            "/ui": _get("A page to try it", {"text/html": {"schema": {"type": "string"}}}),
            "/metrics": _get("Prometheus metrics", _TEXT),
            "/docs.json": _get("This document", _JSON),
            "/": _redirect("To /ui"),
            "/livez": _get("Whether the process lives", _TEXT, of=_ANY),
            "/healthz": _get("As /livez", _TEXT, of=_ANY),
            "/readyz": _get("Whether it is warmed up", _TEXT, ("starting",), of=_ANY),
        },
        "security": _OPTIONAL_KEY,  # the server may need none
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _version() -> str:
    try:
        return version("learned-selector")
    except PackageNotFoundError:  # in a bento, which carries the source
        return "of this bento"


def _form(files: dict[str, Any]) -> dict[str, Any]:
    options = Options.model_json_schema(ref_template=_REF)["properties"]
    schema = {"type": "object", "properties": files | options, "required": list(files), "additionalProperties": False}
    return {"multipart/form-data": {"schema": schema, "encoding": {name: {"contentType": _PICTURES} for name in files}}}


def _responses(content: dict[str, Any], codes: tuple[str, ...]) -> dict[str, Any]:
    failure = {"application/json": {"schema": {"$ref": _REF.format(model="Failure")}}}
    found: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    for code in codes:
        status, meaning = CODES[code]
        text = f"`{code}`: {meaning}"
        if str(status) in found:
            found[str(status)]["description"] += f"; {text}"
        else:
            found[str(status)] = {"description": text, "content": failure}
        if status in (429, 503):
            found[str(status)]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return found


def _post(
    summary: str,
    body: dict[str, Any],
    answer: type[BaseModel],
    codes: tuple[str, ...],
    headers: Sequence[dict[str, Any]] = (),
    links: dict[str, Any] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=answer.__name__)}}}
    responses = _responses(content, codes)
    if links:
        responses["200"]["links"] = links
    return {
        "post": {
            **({} if name is None else {"operationId": name}),
            "summary": summary,
            "parameters": list(headers),
            "requestBody": {"required": True, "content": body},
            "responses": responses,
        }
    }


def _get(summary: str, content: dict[str, Any], codes: tuple[str, ...] = (), of: tuple[str, ...] = _WHO) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(content, (*of, *codes))}}


def _redirect(summary: str) -> dict[str, Any]:
    found = _get(summary, {})
    del found["get"]["responses"]["200"]
    found["get"]["responses"]["307"] = {"description": summary, "headers": {"Location": {"schema": {"const": "ui"}}}}
    return found
