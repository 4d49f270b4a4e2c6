from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dynamic.errors import UserError
from serving.errors import Rejected
from serving.inference.deployment import check_named, open_served
from serving.operation import metrics
from serving.settings import ServingSettings, read_settings


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("SERVING_MAX_BATCH", "0", "SERVING_MAX_BATCH='0': input should be greater than or equal to 1"),
        ("SERVING_WORKERS", "many", "SERVING_WORKERS='many': input should be a valid integer"),
        ("SERVING_KEEP", "perhaps", "'never', 'asked' or 'all'"),
        ("SERVING_OBJECTIVE", "speed", "'accuracy', 'default_cost' or 'efficiency'"),
        ("SERVING_MAX_BACH", "8", "SERVING_MAX_BACH is not a setting: did you mean SERVING_MAX_BATCH?"),
        ("SERVING_MAX_QUEUE", "8", "SERVING_MAX_QUEUE=8 must be at least SERVING_MAX_IMAGES="),
        ("SERVING_DEVICE", "abacus", "SERVING_DEVICE=abacus cannot be used"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="wrong settings") as wrong:
        read_settings()
    assert named in str(wrong.value)


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_MAX_BATCH", "0")
    monkeypatch.setenv("SERVING_MAX_QUEUE", "-1")
    with pytest.raises(UserError, match=r"MAX_BATCH.*MAX_QUEUE"):
        read_settings()


@pytest.mark.parametrize(
    ("network", "policy", "message"),
    [
        ("resnet51", None, "neither a run .* nor a network of torchvision; did you mean resnet50"),
        ("matched", "best", "SERVING_POLICY=best: matched has averaging, blend"),
        ("resnet50-slim", "cascade", "resnet50-slim has default, cheapest"),
    ],
)
def test_what_is_not_there_is_found_out_before_anything_is_loaded(network: str, policy: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_named(ServingSettings(network=network, policy=policy))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("database", "nonsense"), ("database", "sqlite://"), ("weights", "nonsense"), ("weights", "no.pth")],
)
def test_a_database_or_weights_that_cannot_be_are_found_out_too(setting: str, value: str) -> None:
    with pytest.raises(UserError, match=f"SERVING_{setting.upper()}={value}"):
        check_named(ServingSettings(network="resnet50", **{setting: value}))  # type: ignore[arg-type]


def test_a_run_without_policies_says_how_to_learn_them(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match=r"python -m selector.train"):
        check_named(ServingSettings(network=str(tmp_path)))


def test_the_server_stops_at_once_and_says_why(tmp_path: Path) -> None:
    environment = os.environ | {"SERVING_WORKERS": "0", "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "SERVING_WORKERS='0': input should be greater than or equal to 1" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_the_full_network_is_one_setting_away() -> None:
    served = open_served(ServingSettings(network="resnet50", weights="none", device="cpu"))
    assert served.resolution == 224
    assert served.classes[281] == "tabby"
    assert len(served.configurations) == 361
    assert served.macs(served.default) == pytest.approx(4.09e9, rel=0.01)


def test_a_database_that_comes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import service

    opened: list[object] = []

    class Opening:
        served = SimpleNamespace(name="n", active=SimpleNamespace(policy="p", dial=None))

        @classmethod
        async def open(cls, settings: ServingSettings) -> Opening:
            opened.append(settings)
            if len(opened) < 2:
                raise UserError("SERVING_DATABASE cannot be opened")
            return cls()

    async def start() -> None:
        worker = service.DynamicClassifier.inner()
        monkeypatch.setattr(service, "accept_one_at_a_time", lambda loop: None)
        await worker.start()
        await worker._tried.wait()
        with pytest.raises(Rejected, match="tries again"):
            _ = worker.classifier
        assert not await worker.__is_ready__()
        await asyncio.wait_for(worker._loading, 20)
        assert await worker.__is_ready__()
        metrics.READY.set(0)

    monkeypatch.setattr(service, "Classifier", Opening)
    asyncio.run(start())
    assert len(opened) == 2


def test_weights_that_cannot_be_downloaded_are_asked_for_by_their_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", unreachable)
    with pytest.raises(UserError, match=r"no network.*SERVING_WEIGHTS=FILE, or use SERVING_WEIGHTS=none"):
        open_served(ServingSettings(network="resnet50", device="cpu"))
