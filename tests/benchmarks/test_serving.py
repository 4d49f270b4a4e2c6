from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.load import server
from benchmarks.serving import ServingBenchmarkSettings, comparisons, speed_up
from benchmarks.serving_accuracy import TestScenes as Scenes
from benchmarks.serving_accuracy import accuracy
from benchmarks.serving_tables import tables
from benchmarks.widen import WidenSettings, main
from serving.inference.opening import open_deployment
from serving.settings import ServingSettings
from tests.serving.conftest import eight_bit, encoded


def row(name: str, policy: str, rates: list[float], static: list[float]) -> dict[str, Any]:
    load = {"images_per_second": rates[0], "p50_ms": 1.0, "p99_ms": 2.0, "cpu_ms_an_image": 3.0, "rounds": rates}
    return {
        "server": name,
        "policy": policy,
        "first": True,
        "worker_mib": [200.0, 201.0],
        "accuracy": 0.88,
        "gmacs": 0.05,
        "other_prediction": 0,
        "other_configuration": 7,
        "other_gmacs": 0,
        "points": [-0.5, -1.0, 0.0],
        "load": {"single": load, "batch": load},
        "speed_up": {"single": speed_up(rates, static), "batch": speed_up(rates, static)},
    }


def test_a_speed_up_is_taken_within_each_round_and_has_its_spread() -> None:
    """The second round is three times as slow for all: the ratio of the medians would say 1.33 times."""
    assert speed_up([20.0, 8.0, 60.0], [10.0, 4.0, 15.0]) == {"median": 2.0, "low": 2.0, "high": 4.0}


def test_the_tables_quote_every_speed_up_against_a() -> None:
    static = [100.0, 50.0, 100.0]
    rows = [row("(a)", "default", static, static), row("compiled", "cascade", [150.0, 100.0, 160.0], static)]
    found = tables({"groups": [{"name": "onnxruntime float32", "rows": rows}], "mixing": [], "choosing": []})
    line = next(line for line in found.splitlines() if line.startswith("compiled, cascade"))
    assert line.count("1.60 [1.50, 2.00]") == 2
    assert "-0.50 [-1.00, +0.00]" in line
    assert " 7 " in line


def test_a_is_the_first_of_every_comparison_and_onnx_runtime_has_no_bfloat16() -> None:
    settings = ServingBenchmarkSettings(network="mine", static_network="theirs", policies="cascade")
    found = dict(comparisons(settings, ["default", "cascade", "cheapest", "random"]))
    assert list(found) == [
        "onnxruntime float32",
        "openvino float32",
        "openvino bfloat16",
        "onnxruntime int8",
        "openvino int8",
        "torch float32",
    ]
    for servers in found.values():
        assert (servers[0].network, servers[0].settings["static"]) == ("theirs", True)
        assert (servers[0].settings["runtime"], servers[0].settings["precision"]) == ("onnxruntime", "float32")
    assert found["onnxruntime float32"][-1].policies == ("default", "cascade", "cheapest")
    assert found["openvino int8"][-1].policies == ("default", "cascade")
    same = [server.network for server in found["openvino int8"] if server.settings.get("precision") == "int8"]
    assert same == ["theirs", "mine", "mine"], "people's network, the run's default and the run, all in int8"


def test_accuracy_is_compared_image_by_image() -> None:
    scenes = Scenes(files=[b""] * 4, pictures=[Image.new("L", (1, 1))] * 4, labels=np.array([0, 1, 2, 3]))
    answers = [{"predictions": [{"index": i}] if i >= 0 else [], "gmacs": 0.5, "made_by": {}} for i in (0, 1, -1, 2)]
    found = accuracy(answers, scenes, np.array([True, False, False, False]))
    assert found["accuracy"] == 0.5
    assert found["points"][0] == 25
    assert found["points"][1] == pytest.approx(25 - 196 * np.std([0, 1, 0, 0]) / 2)


@pytest.mark.slow
def test_the_run_at_full_width_answers_as_the_slim_one(tmp_path: Path) -> None:
    """Through its recalibrated batch norms, under every configuration that its cascade runs."""
    main(WidenSettings(run=tmp_path / "wide"))
    slim = open_deployment(ServingSettings(network="matched", device="cpu", runtime="torch"))
    full = open_deployment(ServingSettings(network=str(tmp_path / "wide"), device="cpu", runtime="torch"))
    assert {"default", "cascade", "averaging"} <= set(full.policies)
    assert full.macs(full.default) > 14 * slim.macs(slim.default)
    images = np.stack([slim.transform(Image.fromarray(pixels)) for pixels in eight_bit(3)[0]])
    for configuration in slim.portfolio:
        wanted = [configuration] * 3
        found, expected = (d.network.session(images).mixed(wanted) for d in (full, slim))
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.server
def test_the_baseline_serves_the_run_s_default_alone() -> None:
    picture = encoded(eight_bit(1)[0][0])
    with server("matched", 1, static=True) as started:
        address = started.address
        answer = httpx.post(f"{address}/v1/classify", files={"image": picture}, timeout=30).json()
        network = httpx.get(f"{address}/v1/network", timeout=30).json()
        refused = httpx.post(f"{address}/v1/classify", files={"image": picture}, data={"policy": "cascade"}, timeout=30)
        assert started.cpu_seconds() > 0
        assert len(started.memory()) == 1
    assert answer["policy"] == "default"
    assert answer["made_by"]["runtime"] == "onnxruntime"
    assert answer["gmacs"] == answer["default_gmacs"] == pytest.approx(0.051, rel=0.01)
    assert [policy["name"] for policy in network["policies"]] == ["default"]
    assert len(network["configurations"]) == 1
    assert refused.status_code == 422
