from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dynamic.scenes import FashionScenes
from serving.app import create_app
from serving.inference.deployment import Deployment
from serving.inference.opening import open_deployment
from serving.operation.logs import LOGGER
from serving.settings import ServingSettings
from serving.worker import Worker

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def eight_bit(count: int, regime: str = "matched") -> tuple[np.ndarray, np.ndarray]:
    """(N, 96, 96) uint8 scenes of the test split, and their classes."""
    scenes = FashionScenes("test", regime, count=count)  # type: ignore[arg-type]
    pixels = scenes.render(range(count), normalise=False)[:, 0]
    return (pixels * 255).round().clamp(0, 255).byte().numpy(), scenes.labels


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def audible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's log as in a new process: a service in this one, or a library that sets up logging, leaves it mute."""
    monkeypatch.setattr(LOGGER, "disabled", False)
    monkeypatch.setattr(LOGGER, "propagate", True)


@pytest.fixture
def heard() -> Iterator[list[logging.LogRecord]]:
    """What the service logs during a test."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    yield records
    LOGGER.removeHandler(handler)


@pytest.fixture(scope="session")
def scenes() -> tuple[list[bytes], np.ndarray]:
    """48 test scenes as PNG files, and their classes."""
    pixels, labels = eight_bit(48)
    return [encoded(image) for image in pixels], labels


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServingSettings:
    url = f"sqlite:///{tmp_path_factory.mktemp('database')}/serving.db"
    return ServingSettings(database=url, device="cpu", threads=1, workers=1)


@pytest.fixture(scope="session")
def deployment(settings: ServingSettings) -> Deployment:
    """The run the service serves by default."""
    return open_deployment(settings)


@pytest.fixture(scope="session")
def eager(settings: ServingSettings) -> Deployment:
    """The same run in PyTorch: the reference."""
    return open_deployment(settings.model_copy(update={"runtime": "torch"}))


@pytest.fixture(scope="session")
def images(deployment: Deployment, scenes: tuple[list[bytes], np.ndarray]) -> np.ndarray:
    """The same scenes as the network reads them."""
    return np.stack([deployment.transform(Image.open(io.BytesIO(data))) for data in scenes[0]])


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service in this process, warmed up."""
    url = f"sqlite:///{tmp_path_factory.mktemp('client')}/serving.db"
    with TestClient(create_app(ServingSettings(database=url, device="cpu", max_images=16))) as client:
        wait_until_ready(client)
        yield client


def worker_of(client: TestClient) -> Worker:
    """The state of the app behind a client."""
    worker = client.app.state.worker  # type: ignore[attr-defined]
    assert isinstance(worker, Worker)
    return worker


def wait_until_ready(client: httpx.Client, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            raise TimeoutError("the service did not become ready")
        time.sleep(0.1)


def metric(client: httpx.Client, name: str) -> float:
    """The sum over all processes of what has this very name."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def serving(
    folder: Path,
    *arguments: str,
    unprivileged: bool = False,
    python: Path | None = None,
    cwd: Path | None = None,
    **variables: object,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A ``bentoml serve`` process of its own, ready; gives its address.

    ``unprivileged`` takes root's right to write anywhere away, which a container's user does not have either. A setting
    that is None is left to its default. ``python`` is another environment's, ``cwd`` where it runs.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "BENTOML_HOME": os.environ.get("BENTOML_HOME", str(folder / "bentoml")),
        "BENTOML_DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        "SERVING_DEVICE": "cpu",
        "SERVING_DATABASE": f"sqlite:///{folder}/serving.db",
    }
    environment |= {f"SERVING_{name.upper()}": "" if value is None else str(value) for name, value in variables.items()}
    rights = ["-all", "+dac_read_search"]
    command = ["setpriv", *(f"--{kind}={','.join(rights)}" for kind in ("inh-caps", "bounding-set"))]
    command = command if unprivileged and os.getuid() == 0 and shutil.which("setpriv") else []
    command += [
        str(python or sys.executable),
        "-m",
        "bentoml",
        "serve",
        *arguments,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=cwd, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=address, timeout=5) as client:
                wait_until_ready(client, 240)
            yield address, process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
