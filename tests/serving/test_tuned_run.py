"""From nothing to a served run: a network class and a folder of photographs of one's own, one command, a real server."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from oracle.runs import Run
from selector.learning.observing import observe_run
from selector.observation.images import RecordedImages
from selector.policies import load_policies
from selector.policies.running import run_policy
from tests.oracle.conftest import run_here
from tests.own_network import CLASSES, OPTIONS, photographs, train_network, write_network, write_photographs
from tests.selector.test_own_policies import example
from tests.serving.conftest import serving

pytestmark = [pytest.mark.slow, pytest.mark.server]


def test_each_test_image_is_answered_over_http_as_offline(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 60)
    network = write_network(tmp_path)
    weights = train_network(tmp_path, photographs(200, 300))
    own = example(tmp_path)
    out = tmp_path / "mine"
    brought = ["--model", f"{network}:build", "--weights", weights, "--data-dir", tmp_path / "photos", *OPTIONS]
    result = run_here(
        *brought, "--policies", f"cascade,{own}", "--search-images", 40, "--out", out, "--json", module="selector.tune"
    )
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["test_images"] + line["label_images"] == 240
    assert line["default"]["accuracy"] > 0.8
    for said in ("short side", "layer A first.conv: stride 1, 2, 3, 4", "search:", "statistics", "evaluate:", "rank:"):
        assert said in result.stderr
    assert "For these images, my_net.py:build reaches" in result.stdout
    # Everything that it was made of but the pictures is gone: the run has it all.
    for gone in (network, weights, Path(own.rpartition(":")[0])):
        gone.unlink()

    run = Run.open(out)
    policies = {policy.name: policy for policy in load_policies(run)}
    assert "plain" in policies
    test = observe_run(run, run.images(), run.outcomes(), run.configurations, run.observations).split("test")
    portfolio = [c for c in run.configurations if c.id in policies["default"].portfolio_]
    test = test.among(portfolio, run.network, run.record.resolution)
    active = line["objectives"]["efficiency"]
    with serving(tmp_path / "server", network=out, workers=1) as (address, _), httpx.Client(base_url=address) as client:
        described = client.get("/v1/network").json()
        assert described["classes"] == list(CLASSES)
        assert described["active"]["policy"] == active["policy"]
        assert described["active"]["why"] == active["why"]
        for form in ({}, {"policy": "cascade"}, {"policy": "plain"}):
            answers = [ask(client, tmp_path / "photos" / key, form) for key in test.keys]
            policy, dial = policies[answers[0]["policy"]], answers[0]["dial"]
            offline = run_policy(policy, RecordedImages(test), dial)
            assert [a["predictions"][0]["name"] for a in answers] == [CLASSES[row] for row in offline.predicted]
            assert [a["configuration"]["id"] for a in answers] == [portfolio[c].id for c in offline.columns]
            assert np.allclose([a["gmacs"] for a in answers], offline.macs / 1e9)


def ask(client: httpx.Client, path: Path, form: dict[str, str]) -> dict[str, object]:
    answer = client.post("/v1/classify", files={"image": path.read_bytes()}, data=form, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()
