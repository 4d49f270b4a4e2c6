"""schemathesis at length, against a server whose keys, private pages and limits are all set."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.serving.by_schema import explore
from tests.serving.conftest import serving

pytestmark = [pytest.mark.nightly, pytest.mark.server]

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "150"))
OPERATOR = {"X-API-Key": "operator-key-of-16"}


def test_schemathesis_finds_nothing_as_an_operator(tmp_path: Path) -> None:
    limits = {"api_keys": "client-key-of-16", "operator_keys": OPERATOR["X-API-Key"], "private_paths": "/metrics,/v1/gap"}
    with serving(tmp_path / "server", workers=2, threads=1, max_images=32, **limits) as (address, _):
        explore(address, tmp_path, EXAMPLES, OPERATOR)
        assert httpx.get(f"{address}/readyz", timeout=30).status_code == 200
    log = (tmp_path / "server" / "log.txt").read_text()
    assert "Traceback" not in log, log[-3000:]
