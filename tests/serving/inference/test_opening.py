from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynamic.errors import UserError
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.opening import open_deployment
from serving.inference.plans import Plan
from serving.settings import ServingSettings
from serving.startup import check_before_start


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
        check_before_start(ServingSettings(network=network, policy=policy))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("database", "nonsense"), ("database", "sqlite://"), ("weights", "nonsense"), ("weights", "no.pth")],
)
def test_a_database_or_weights_that_cannot_be_are_found_out_too(setting: str, value: str) -> None:
    with pytest.raises(UserError, match=f"SERVING_{setting.upper()}={value}"):
        check_before_start(ServingSettings(network="resnet50", **{setting: value}))  # type: ignore[arg-type]


def test_a_run_without_policies_says_how_to_learn_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m selector.train"):
        check_before_start(ServingSettings(network=str(tmp_path)))


@pytest.mark.slow
def test_the_full_network_is_one_setting_away() -> None:
    deployment = open_deployment(ServingSettings(network="resnet50", weights="none", device="cpu"))
    assert deployment.resolution == 224
    assert deployment.classes[281] == "tabby"
    assert len(deployment.configurations) == 361
    assert deployment.macs(deployment.default) == pytest.approx(4.09e9, rel=0.01)


def test_weights_that_cannot_be_downloaded_are_asked_for_by_their_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", unreachable)
    with pytest.raises(UserError, match=r"no network.*SERVING_WEIGHTS=FILE, or use SERVING_WEIGHTS=none"):
        open_deployment(ServingSettings(network="resnet50", device="cpu"))


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_the_static_network_of_a_run_is_its_default_with_its_own_norms_folded(
    deployment: Deployment, images: np.ndarray, runtime: Any
) -> None:
    """The shipped run leaves its default the network's own norms, so both must answer alike; only the way differs."""
    static = open_deployment(ServingSettings(network="matched", static=True, device="cpu", runtime=runtime))
    assert list(static.policies) == ["default"]
    assert static.configurations == (deployment.default,)
    assert static.classes == deployment.classes
    assert static.key != deployment.key, "its answers are not the run's"
    if runtime == "torch":
        program = static.network.network.program  # type: ignore[attr-defined]
        parts = [*program.segments, *program.sites]
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for part in parts for m in part.module.modules()), "folded"
    else:
        assert len(static.network.network.record.graphs) == 1, "one whole graph"  # type: ignore[attr-defined]
    default = Plan(policy="default")
    for mine, theirs in zip(answer(static, images, [default] * 48), answer(deployment, images, [default] * 48), strict=True):
        assert np.allclose(mine.probabilities, theirs.probabilities, atol=1e-4)
        assert mine.macs == theirs.macs


def test_the_static_network_has_no_other_policy() -> None:
    with pytest.raises(UserError, match=r"SERVING_POLICY=cascade: matched has default$"):
        check_before_start(ServingSettings(network="matched", policy="cascade", static=True))
