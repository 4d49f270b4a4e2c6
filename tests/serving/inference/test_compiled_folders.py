"""Which graphs are served, what is said where there are none, and the eager reserve beside them."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dynamic.errors import UserError
from dynamic.integrity import read_record, write_record
from selector.shipped import SHIPPED
from serving.errors import Rejection
from serving.inference import compiled_folders
from serving.inference.budget import open_reserve_for, plan_request
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.opening import open_deployment
from serving.inference.reserve import OpenedReserve, Reserve
from serving.settings import ServingSettings, read_settings
from serving.startup import check_before_start


@pytest.fixture
def run(tmp_path: Path, deployment: Deployment) -> Path:
    """A copy of the shipped run with its graphs (which the deployment has made)."""
    shutil.copytree(SHIPPED["matched"], tmp_path / "run", ignore=shutil.ignore_patterns("compiled", ".lock"))
    graphs = deployment.network.network.folder  # type: ignore[attr-defined]
    shutil.copytree(graphs, tmp_path / "run" / "compiled" / "float32")
    return tmp_path / "run"


def without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiled_folders, "torch_is_installed", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_graphs_of_a_run_are_found_in_its_folder(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_torch(monkeypatch, tmp_path)
    found = open_deployment(ServingSettings(network=str(run), device="cpu"))
    assert found.network.runtime == "onnxruntime"
    assert found.network.network.folder == run / "compiled" / "float32"  # type: ignore[attr-defined]


def test_graphs_that_are_damaged_are_not_served(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_torch(monkeypatch, tmp_path)
    weights = run / "compiled" / "float32" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"weights.bin is damaged.*python -m selector.compile"):
        open_deployment(ServingSettings(network=str(run), device="cpu", runtime="onnxruntime"))


def test_the_static_graph_has_a_command_of_its_own(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_torch(monkeypatch, tmp_path)
    settings = ServingSettings(network=str(run), device="cpu", static=True, runtime="onnxruntime")
    place = run / "compiled" / "static" / "float32"
    said = f"run python -m serving.compile {run} --precision float32 --out {place} where PyTorch is installed"
    with pytest.raises(UserError, match=re.escape(said)):
        open_deployment(settings)


def test_another_precision_names_the_command_that_fits_its_policies(run: Path) -> None:
    with pytest.raises(UserError, match=r"is not compiled in int8: .*python -m selector.compile .*run --precision int8"):
        check_before_start(ServingSettings(network=str(run), device="cpu", precision="int8"))


def test_graphs_of_a_precision_wait_for_its_policies(run: Path) -> None:
    """As an interrupted selector.compile leaves them; the float32 policies' thresholds are for other answers."""
    settings = ServingSettings(network=str(run), device="cpu", precision="int8")
    graphs = shutil.copytree(run / "compiled" / "float32", run / "compiled" / "int8")
    with pytest.raises(UserError, match=r"int8 holds graphs in float32, not int8"):
        check_before_start(settings)
    write_record(graphs / "compiled.json", read_record(graphs / "compiled.json") | {"precision": "int8"})
    with pytest.raises(UserError, match=r"int8 has no policies in int8: python -m selector.compile .*run --precision int8"):
        check_before_start(settings)


def test_a_tolerance_is_checked_on_the_policies_of_the_precision(run: Path) -> None:
    graphs = shutil.copytree(run / "compiled" / "float32", run / "compiled" / "int8")
    write_record(graphs / "compiled.json", read_record(graphs / "compiled.json") | {"precision": "int8"})
    shutil.copytree(run / "policies", graphs / "policies")
    shutil.rmtree(graphs / "policies" / "cascade")
    settings = ServingSettings(network=str(run), device="cpu", precision="int8", tolerance=0.001, policy="cheapest")
    with pytest.raises(UserError, match=r"SERVING_TOLERANCE=0\.001 with 95% confidence: of cheapest .* is guaranteed"):
        check_before_start(settings)
    with pytest.raises(UserError, match=r"SERVING_POLICY=cascade: .* has default"):  # which the run has in float32 alone
        check_before_start(settings.model_copy(update={"policy": "cascade"}))
    check_before_start(settings.model_copy(update={"policy": "default"}))


def test_graphs_for_images_of_another_size_are_not_served(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_torch(monkeypatch, tmp_path)
    write_record(run / "run.json", read_record(run / "run.json") | {"resolution": 128})
    with pytest.raises(UserError, match="was compiled for images of 96 pixels, not 128"):
        open_deployment(ServingSettings(network=str(run), device="cpu", runtime="onnxruntime"))


def test_nothing_is_compiled_for_a_runtime_that_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run / "compiled")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="cannot be served compiled: OpenVINO is not installed: pip install"):
        check_before_start(ServingSettings(network=str(run), device="cpu", runtime="openvino"))
    assert not (run / "compiled").exists()


def test_what_cannot_be_compiled_is_tried_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the supervisor; each worker reads the settings again, and opens the run."""
    shutil.rmtree(run / "compiled")
    tried = []

    def failing(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        tried.append(command)
        return subprocess.CompletedProcess(command, 2, stderr="error: b.conv cannot be written as a static graph\n")

    monkeypatch.setattr(compiled_folders.subprocess, "run", failing)
    monkeypatch.setenv(compiled_folders._FAILED, "")
    settings = ServingSettings(network=str(run), device="cpu")
    for _ in range(2):
        check_before_start(settings)
        assert "is torch: " + str(run) + " cannot be compiled: b.conv cannot be written" in capsys.readouterr().err
    assert open_deployment(settings).network.runtime == "torch"
    assert len(tried) == 1


def test_a_run_that_crops_its_images_is_served_by_torch_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_record(run / "run.json")
    record["settings"]["crop"] = 0.5
    write_record(run / "run.json", record)
    check_before_start(ServingSettings(network=str(run), device="cpu"))
    assert "SERVING_RUNTIME=auto is torch: run crops or resizes its images" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be served compiled: run crops or resizes its images"):
        check_before_start(ServingSettings(network=str(run), device="cpu", runtime="openvino"))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PRECISION": "int8", "RUNTIME": "torch"}, "SERVING_PRECISION=int8 needs compiled graphs"),
        ({"PRECISION": "bfloat16", "RUNTIME": "onnxruntime"}, "SERVING_PRECISION=bfloat16 needs SERVING_RUNTIME=openvino"),
        ({"DEVICE": "cuda", "RUNTIME": "onnxruntime"}, "SERVING_RUNTIME=onnxruntime runs on the cpu"),
    ],
)
def test_settings_that_do_not_go_together_are_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SERVING_{name}", value)
    with pytest.raises(UserError, match=message):
        read_settings()


def test_what_is_not_compiled_runs_in_the_reserve_beside_graphs(
    deployment: Deployment, eager: Deployment, images: np.ndarray
) -> None:
    """As if the graphs lacked one configuration of the portfolio."""
    other = deployment.portfolio[-1]
    reserve = Reserve(lambda: OpenedReserve(network=eager.network, configurations=eager.configurations))
    compiled = tuple(c for c in deployment.configurations if c != other)
    lacking = dataclasses.replace(deployment, configurations=compiled, reserve=reserve)
    with pytest.raises(Rejection, match="configuration must be"):
        plan_request(lacking, configuration=other.id)
    open_reserve_for(lacking, "nonsense")
    assert reserve.configurations == (), "nothing is opened for what cannot be a configuration"
    open_reserve_for(lacking, other.id)
    forced, cascade = plan_request(lacking, configuration=other.id)[0], plan_request(lacking, policy="cascade")[0]
    assert lacking.network_of(other).runtime == "torch"
    mixed = answer(lacking, images[:4], [forced, cascade, forced, cascade])
    alone = [*answer(eager, images[:4:2], [forced] * 2), *answer(deployment, images[1:4:2], [cascade] * 2)]
    for found, expected in zip([mixed[0], mixed[2], mixed[1], mixed[3]], alone, strict=True):
        assert found.configuration == expected.configuration
        assert found.macs == expected.macs
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
