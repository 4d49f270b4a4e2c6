"""A compiled run is served without PyTorch and what trains: refused by this process, and in an environment without them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from tests.serving.conftest import serving

ROOT = Path(__file__).parents[2]

LARGE = ("torch", "torchvision", "lightgbm", "sklearn", "pandas", "pyarrow", "zarr", "xarray", "matplotlib", "scipy.stats")

PROGRAM = f"""
import json, sys, time
for name in {LARGE!r}:
    sys.modules[name] = None  # whoever imports it gets an ImportError
from starlette.testclient import TestClient
from serving.app import create_app
from serving.settings import ServingSettings
with TestClient(create_app(ServingSettings(database=sys.argv[2]))) as client:
    while client.get("/readyz").status_code != 200:
        time.sleep(0.05)
    answers = []
    for policy in sys.argv[3:]:
        files = [("images", open(path, "rb")) for path in sys.argv[1].split(",")]
        answers.append(client.post("/v1/classify_batch", files=files, data={{"policy": policy}}).json()["results"])
    other = client.post("/v1/classify", files={{"image": open(sys.argv[1].split(",")[0], "rb")}},
                        data={{"configuration": "s1-1-1-1_d1-1-1-1_k3-3-3-3"}})
    print(json.dumps({{"answers": answers, "network": client.get("/v1/network").json(), "other": other.json()}}))
"""

POLICIES = ("cascade", "correctness", "head", "neighbours", "stacking", "stagewise", "top_two")


@pytest.fixture
def files(tmp_path: Path, scenes: tuple[list[bytes], np.ndarray]) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(16)]
    for path, data in zip(paths, scenes[0], strict=False):
        path.write_bytes(data)
    return paths


@pytest.mark.slow
def test_every_policy_answers_where_nothing_large_can_be_imported(
    deployment: Deployment, images: np.ndarray, files: list[Path], tmp_path: Path
) -> None:
    """The deployment of this process, which may import anything, is the reference; its graphs are those that are found."""
    assert deployment.network.runtime == "onnxruntime"
    command = [sys.executable, "-c", PROGRAM, ",".join(map(str, files)), f"sqlite:///{tmp_path}/serving.db", *POLICIES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for policy, results in zip(POLICIES, found["answers"], strict=True):
        plan, _ = plan_request(deployment, policy=policy)
        expected = answer(deployment, images[:16], [plan] * 16)
        for result, reference in zip(results, expected, strict=True):
            assert result["answer"]["predictions"][0]["index"] == reference.predicted
            assert result["answer"]["configuration"]["id"] == reference.configuration.id
            assert result["answer"]["gmacs"] == pytest.approx(reference.macs / 1e9)
            assert result["answer"]["made_by"] == found["network"]["made_by"]
    made_by = {"network": "matched", "weights": deployment.weights, "runtime": "onnxruntime", "precision": "float32"}
    assert found["network"]["made_by"] == made_by
    assert not found["network"]["other_configurations"]
    assert "configuration must be one of" in found["other"]["error"]["message"]


@pytest.mark.nightly
@pytest.mark.server
def test_an_environment_of_the_bento_s_requirements_serves_the_same(
    deployment: Deployment, images: np.ndarray, files: list[Path], tmp_path: Path
) -> None:
    """The one that an image is built from: pip's own resolution of serving/requirements.txt, nothing beside it."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "-r", ROOT / "serving" / "requirements.txt"], check=True, timeout=1200)
    subprocess.run([*pip, "--no-deps", ROOT], check=True, timeout=1200)
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in absent.stderr
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    network = ROOT / "selector" / "assets" / "matched"  # with the graphs that this process has made
    started = serving(
        tmp_path / "server", "serving.service:DynamicClassifier", python=python, cwd=elsewhere, workers=1, network=network
    )
    with started as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        for policy in POLICIES:
            expected = answer(deployment, images[:16], [plan_request(deployment, policy=policy)[0]] * 16)
            parts = [("images", path.read_bytes()) for path in files]
            results = client.post("/v1/classify_batch", files=parts, data={"policy": policy}).json()["results"]
            assert [r["answer"]["predictions"][0]["index"] for r in results] == [e.predicted for e in expected]
            assert [r["answer"]["configuration"]["id"] for r in results] == [e.configuration.id for e in expected]
        assert client.get("/v1/gap").json()["offline"]["available"]
