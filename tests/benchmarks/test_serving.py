from __future__ import annotations

from typing import Any

import httpx
import pytest

from benchmarks.load import server
from benchmarks.serving import STATIC, speed_up, table
from tests.serving.conftest import eight_bit, encoded


def row(name: str, rates: list[float], static: list[float]) -> dict[str, Any]:
    load = {"images_per_second": rates[0], "p50_ms": 1.0, "p99_ms": 2.0, "rounds": rates}
    return {
        "policy": name,
        "accuracy": 0.88,
        "gmacs": 0.05,
        "other_prediction": 0,
        "other_configuration": 0,
        "other_gmacs": 0,
        "load": {"single": load, "batch": load},
        "speed_up": {"single": speed_up(rates, static), "batch": speed_up(rates, static)},
    }


def test_a_speed_up_is_taken_within_each_round_and_has_its_spread() -> None:
    """The second round is three times as slow for all: the ratio of the medians would say 1.33 times."""
    assert speed_up([20.0, 8.0, 60.0], [10.0, 4.0, 15.0]) == {"median": 2.0, "low": 2.0, "high": 4.0}


def test_the_table_quotes_every_speed_up_against_the_static_network() -> None:
    static = [100.0, 50.0, 100.0]
    rows = [row(STATIC, static, static), row("cascade", [150.0, 100.0, 160.0], static)]
    found = table({"policies": rows, "mixing": [], "selecting": []})
    assert "× static" in found
    line = next(line for line in found.splitlines() if line.startswith("cascade"))
    assert line.count("1.60 [1.50, 2.00]") == 2


@pytest.mark.slow
@pytest.mark.server
def test_the_baseline_serves_the_run_s_default_alone() -> None:
    picture = encoded(eight_bit(1)[0][0])
    with server("matched", 1, static=True) as address:
        answer = httpx.post(f"{address}/v1/classify", files={"image": picture}, timeout=30).json()
        network = httpx.get(f"{address}/v1/network", timeout=30).json()
        refused = httpx.post(f"{address}/v1/classify", files={"image": picture}, data={"policy": "cascade"}, timeout=30)
    assert answer["policy"] == "default"
    assert answer["gmacs"] == answer["default_gmacs"] == pytest.approx(0.051, rel=0.01)
    assert [policy["name"] for policy in network["policies"]] == ["default"]
    assert len(network["configurations"]) == 1
    assert refused.status_code == 422
