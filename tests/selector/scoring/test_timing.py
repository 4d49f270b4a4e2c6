from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dynamic
from dynamic import Configuration
from dynamic.recalibration import recalibrate
from selector.observation.costs import Costs
from selector.observation.observations import Observations
from selector.policies.constant import Default
from selector.policies.running import PolicyRuns
from selector.scoring import timing
from selector.scoring.ranking import rank
from selector.scoring.timing import Stopwatch, time_rows

Splits = tuple[Observations, Observations]


@pytest.fixture
def stopwatch(network: dynamic.DynamicNetwork, portfolio: list[Configuration]) -> Stopwatch:
    """The policies' network runs through recalibrated norms, which cannot be folded; the static one has none left."""
    images = torch.randn(40, 3, 32, 32)
    statistics = recalibrate(network, images, portfolio)
    return Stopwatch(
        network=network.for_inference(statistics=statistics),
        static=network.for_inference(),
        portfolio=portfolio,
        costs=Costs(network, portfolio, 32),
        images=images,
    )


def test_policy_and_static_network_take_turns(stopwatch: Stopwatch, noise: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []
    whole = timing.run_policy

    def noted(policy: object, images: object, dial: object) -> object:
        ran.append(("policy", len(images)))  # type: ignore[arg-type]
        return whole(policy, images, dial)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "run_policy", noted)
    stopwatch.static.register_forward_hook(lambda _, inputs, __: ran.append(("static", len(inputs[0]))))
    found = stopwatch.time(Default().fit(noise[0]), None)
    turn = [("policy", 1)] * 8 + [("static", 1)] * 8
    assert ran[: len(turn) * (timing.TURNS + 1)] == turn * (timing.TURNS + 1)
    assert ran[len(turn) * (timing.TURNS + 1) :] == [("policy", 32), ("static", 32)] * (timing.TURNS + 1)
    for size in ("1", "32"):
        ratio = found["static_ratio"][size]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert found["milliseconds"][size] > 0
    static = stopwatch.static_milliseconds()
    assert static is not None
    assert set(static) == {"1", "32"}


def test_the_static_network_is_the_default_with_folded_norms(stopwatch: Stopwatch, network: dynamic.DynamicNetwork) -> None:
    norms = [module for module in stopwatch.static.program.segments for module in module.module.modules()]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in norms)
    assert stopwatch.static.norms is None
    assert stopwatch.network.norms is not None
    expected = network.original(stopwatch.images).argmax(dim=1).numpy()
    assert (stopwatch._by_static(stopwatch.images) == expected).all()


def test_the_ratio_says_how_many_times_as_fast_as_the_static_network(
    stopwatch: Stopwatch, noise: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that says a policy takes twice as long as the static network, four times in one turn."""
    durations = iter([2.0, 1.0] * 3 + [4.0, 1.0] + [2.0, 1.0] * 20)
    monkeypatch.setattr(Stopwatch, "_seconds", lambda *_: next(durations))
    found = replace(stopwatch, images=stopwatch.images[:20]).time(Default().fit(noise[0]), None)
    assert found["static_ratio"] == {"1": {"median": 0.5, "low": 0.25, "high": 0.5}}  # too few images for 32
    assert found["milliseconds"] == {"1": pytest.approx(1000 * 2.0 / 8)}


def test_rows_with_the_same_setting_are_timed_once(noise: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    from selector.learning.fitting import calibrate
    from selector.policies import make

    label, test = noise
    policies = [calibrate(policy, label) for policy in make("correctness")]
    rows = rank(policies, label, PolicyRuns(test)).rows
    timed: list[tuple[str, float | None]] = []

    class Counter:
        def time(self, policy: object, dial: float | None) -> dict[str, object]:
            timed.append((policy.name, dial))  # type: ignore[attr-defined]
            return {"milliseconds": {"1": float(len(timed))}, "static_ratio": {}}

    time_rows(Counter(), rows, policies)  # type: ignore[arg-type]
    assert len(timed) == len(set(timed))
    by_name = {row["name"]: row for row in rows}
    assert by_name["oracle"]["milliseconds"] is None
    assert by_name["oracle"]["static_ratio"] is None
    assert by_name["default"]["milliseconds"] == {"1": float(1 + timed.index(("default", by_name["default"]["dial"])))}
    assert all(row["milliseconds"] for row in rows if row["policy"] != "oracle")


def test_nothing_is_known_before_a_turn(stopwatch: Stopwatch) -> None:
    assert stopwatch.static_milliseconds() is None
    assert np.isfinite(stopwatch.images.numpy()).all()
