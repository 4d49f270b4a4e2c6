"""A run on an image folder is copied elsewhere, its images and weights are deleted, and it is served."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import httpx
import pytest

from dynamic import UserError
from oracle.runs import Run
from selector.shipped import SHIPPED
from serving.inference.opening import open_deployment
from serving.settings import ServingSettings
from tests.run_folders import CLASSES, moved_folder_run, photograph
from tests.serving.conftest import serving

pytestmark = pytest.mark.slow  # a run and policies of its own


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moved_folder_run(tmp_path_factory.mktemp("served-folder"))


def test_it_is_opened_from_any_directory(folder_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    deployment = open_deployment(ServingSettings(network=str(folder_run), device="cpu"))
    assert deployment.classes == CLASSES
    assert deployment.active.policy == "default"  # of random weights no policy makes anything
    assert deployment.why_active.startswith("default: no policy helps here; the nearest, cascade, is expected to reach")
    assert deployment.transform(photograph(5)).shape == (3, 96, 96)


@pytest.mark.slow
@pytest.mark.server
def test_a_real_server_answers_with_its_class_names(folder_run: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photograph(5).save(buffer, "PNG")
    with serving(tmp_path, network=folder_run, workers=1, policy="cascade") as (address, _):
        answer = httpx.post(f"{address}/v1/classify", files={"image": buffer.getvalue()}, timeout=30).json()
    assert {prediction["name"] for prediction in answer["predictions"]} == set(CLASSES)
    assert answer["policy"] == "cascade"


def test_policies_of_another_run_beside_it_are_refused_in_one_line(folder_run: Path, tmp_path: Path) -> None:
    """The pre-trained network with the policies of ``matched`` beside it was served, and delivered less than promised."""
    shutil.copytree(SHIPPED["wide"], tmp_path / "run", ignore=shutil.ignore_patterns("compiled", ".lock"))
    shutil.rmtree(tmp_path / "run" / "policies")
    shutil.copytree(SHIPPED["matched"] / "policies", tmp_path / "run" / "policies")
    there, here = (Run.open(SHIPPED[name]).digests.weights for name in ("matched", "wide"))
    differs = rf"default belongs to another network \(weights {there} there, {here} here; statistics"
    with pytest.raises(UserError, match=differs) as refused:
        open_deployment(ServingSettings(network=str(tmp_path / "run"), device="cpu"))
    assert "\n" not in str(refused.value)
