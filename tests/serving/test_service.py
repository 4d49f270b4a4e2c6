from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


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


def test_a_bento_asks_for_what_a_compiled_run_needs_in_the_projects_own_versions() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "serving" / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(listed) <= {*project["dependencies"], *project["optional-dependencies"]["postgresql"]}
    assert set(project["optional-dependencies"]["postgresql"]) <= set(listed), "several pods need it"
    assert not {"torch", "torchvision", "lightgbm", "pandas"} & {line.partition(">=")[0] for line in listed}
    assert "./serving/requirements.txt" in (root / "bentofile.yaml").read_text()
