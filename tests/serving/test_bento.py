"""A bento is built without a network and serves where nothing may be written but its user's own folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.serving.conftest import metric, serving

pytestmark = [pytest.mark.slow, pytest.mark.server]

Scenes = tuple[list[bytes], np.ndarray]


def test_a_bento_is_built_and_serves(tmp_path: Path, scenes: Scenes) -> None:
    environment = os.environ | {"BENTOML_HOME": str(tmp_path / "bentoml"), "BENTOML_DO_NOT_TRACK": "true"}
    nowhere = "http://127.0.0.1:9"  # where nobody listens: building needs no network
    environment |= {name: nowhere for name in ("http_proxy", "https_proxy", "PIP_INDEX_URL", "UV_INDEX_URL")}
    root = Path(__file__).parents[2]
    build = [sys.executable, "-m", "bentoml", "build", "--output", "tag", "--version", "test"]
    done = subprocess.run(build, env=environment, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    bento = tmp_path / "bentoml" / "bentos" / "dynamic_classifier" / "test"
    before = sorted(bento.rglob("*"))
    for path in (bento, *before):  # as in an image whose root is read-only
        path.chmod(path.stat().st_mode & ~0o222)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        patch.setenv("TMPDIR", str(scratch))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        running = serving(tmp_path, "dynamic_classifier:test", unprivileged=True, workers=1, database=None)
        with running as (address, _), httpx.Client(base_url=address, timeout=20) as client:
            assert client.post("/v1/classify", files={"image": scenes[0][0]}).status_code == 200
            assert client.get("/v1/gap").json()["offline"]["available"]
            assert client.get("/ui").status_code == 200
            assert metric(client, "serving_database_up") == 1
    assert sorted(bento.rglob("*")) == before, "a bento is handed on with everything in it"
    assert (tmp_path / "state" / "dynamic-classifier" / "runs" / "serving.db").is_file()
