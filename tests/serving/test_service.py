from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from dynamic.errors import UserError
from serving.errors import Rejection
from serving.operation import metrics
from serving.settings import ServingSettings


@pytest.mark.slow
@pytest.mark.server
def test_the_server_stops_at_once_and_says_why(tmp_path: Path) -> None:
    environment = os.environ | {"SERVING_WORKERS": "0", "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "SERVING_WORKERS='0': input should be greater than or equal to 1" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_database_that_comes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import service

    opened: list[object] = []

    class Opening:
        deployment = SimpleNamespace(name="n", active=SimpleNamespace(policy="p", dial=None), why_active="w")

        @classmethod
        async def open(cls, settings: ServingSettings) -> Opening:
            opened.append(settings)
            if len(opened) < 2:
                raise UserError("SERVING_DATABASE cannot be opened")
            return cls()

    async def start() -> None:
        worker = service.DynamicClassifier.inner()
        monkeypatch.setattr(service, "accept_one_at_a_time", lambda *arguments: None)
        await worker.start()
        await worker._tried.wait()
        with pytest.raises(Rejection, match="tries again"):
            _ = worker.classifier
        assert not await worker.__is_ready__()
        await asyncio.wait_for(worker._loading, 20)
        assert await worker.__is_ready__()
        metrics.READY.set(0)

    monkeypatch.setattr(service, "Classifier", Opening)
    asyncio.run(start())
    assert len(opened) == 2


def test_a_bento_asks_for_what_a_compiled_run_needs_in_the_projects_own_versions() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "serving" / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(listed) <= {*project["dependencies"], *project["optional-dependencies"]["postgresql"]}
    assert set(project["optional-dependencies"]["postgresql"]) <= set(listed), "several pods need it"
    assert not {"torch", "torchvision", "lightgbm", "pandas"} & {line.partition(">=")[0] for line in listed}
    assert "./serving/requirements.txt" in (root / "bentofile.yaml").read_text()
