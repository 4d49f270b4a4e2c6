"""schemathesis with all its checks: right and wrong requests, made from what a server says of itself.

It is told what a client knows beside ``/docs.json``: of ``/v1/network`` the names of classes, policies and configurations
and the budgets that can be kept, and pictures that are pictures. Of requests that are right in all this it demands an
answer. This module is loaded by schemathesis too, for its hooks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import strategies as st

from tests.serving.bad_inputs import picture

PATIENT = 30_000
"""Milliseconds, at least, of an ``X-Deadline-Ms`` that is sent."""


for kind in ("image/jpeg", "image/png", "image/webp"):  # its own have one pixel, and are refused
    schemathesis.openapi.media_type(kind, st.sampled_from([picture(), picture(size=(9, 90))]))


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Let deadlines be such that the server can keep them: a later answer is a 503."""
    deadline = str((case.headers or {}).get("X-Deadline-Ms", ""))
    if deadline.isdecimal() and 0 < int(deadline) < PATIENT:
        case.headers["X-Deadline-Ms"] = str(PATIENT)


@schemathesis.hook  # type: ignore[untyped-decorator]
def filter_case(context: Any, case: Any) -> bool:
    """Leave out what neither is right nor can be told to be wrong by a schema, or is not what is sent."""
    body = case.body
    if not isinstance(body, dict):
        return True
    if isinstance(body.get("label"), float):  # JSON Schema takes 3.0 for an integer, the service on purpose does not
        return False
    if any(isinstance(value, list | dict) and not value for value in body.values()):  # in a form it is nothing at all
        return False
    given = [name for name in ("configuration", "policy", "max_gmacs") if body.get(name) is not None]
    return given[:1] != ["configuration"] or len(given) == 1  # who forces one chooses nothing else


def known(http: httpx.Client) -> dict[str, Any]:
    """The server's OpenAPI document, narrowed down by what it serves."""
    document: dict[str, Any] = http.get("/docs.json").json()
    served = http.get("/v1/network").json()
    budget = max(min(point["gmacs"] for point in policy["points"]) for policy in served["policies"])
    names = {
        "policy": {"enum": [policy["name"] for policy in served["policies"]] + [None]},
        "max_gmacs": {"type": ["number", "null"], "minimum": 1.001 * budget},
        "configuration": {"enum": [configuration["id"] for configuration in served["configurations"]] + [None]},
    }
    for path in ("/v1/classify", "/v1/classify_batch"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        schema["properties"] |= names
    classes = served["classes"]
    document["components"]["schemas"]["Feedback"]["properties"]["label"] = {
        "anyOf": [{"enum": classes}, {"type": "integer", "minimum": 0, "maximum": len(classes) - 1}]
    }
    return document


def explore(address: str, folder: Path, examples: int, headers: dict[str, str] | None = None) -> None:
    """Send requests of all phases and compare every answer with the document, by all checks.

    Args:
        address: of the server.
        folder: for the document.
        examples: of each address, at most, in each of the phases that draw them.
        headers: of every request.

    Raises:
        AssertionError: with what was found.
    """
    with httpx.Client(base_url=address, timeout=30, headers=headers) as http:
        (folder / "docs.json").write_text(json.dumps(known(http)))
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", "docs.json"]
    options = ["--url", address, "--checks", "all", "--max-examples", str(examples), "--seed", "1", "--continue-on-failure"]
    options += ["--suppress-health-check", "all", "--no-color"]
    for name, value in (headers or {}).items():
        options += ["--header", f"{name}: {value}"]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.serving.by_schema",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=1800, cwd=folder, env=environment)
    (folder / "schemathesis.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert "not applicable" not in done.stdout, "stateful too"
