from __future__ import annotations

from dataclasses import dataclass, replace

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
from selector.scoring.timing import Stopwatch, eager_stopwatch, time_rows

Splits = tuple[Observations, Observations]


@dataclass
class Timed:
    """The policies' network runs through recalibrated norms, which cannot be folded; the static one has none left."""

    network: dynamic.DynamicNetwork
    static: dynamic.DynamicNetwork
    stopwatch: Stopwatch


@pytest.fixture
def timed(network: dynamic.DynamicNetwork, portfolio: list[Configuration]) -> Timed:
    images = torch.randn(40, 3, 32, 32)
    statistics = recalibrate(network, images, portfolio)
    mine, static = network.for_inference(statistics=statistics), network.for_inference()
    return Timed(mine, static, eager_stopwatch(mine, static, portfolio, Costs(network, portfolio, 32), images))


def test_policy_and_static_network_take_turns(timed: Timed, noise: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []
    whole = timing.run_policy

    def noted(policy: object, images: object, dial: object) -> object:
        ran.append(("policy", len(images)))  # type: ignore[arg-type]
        return whole(policy, images, dial)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "run_policy", noted)
    timed.static.register_forward_hook(lambda _, inputs, __: ran.append(("static", len(inputs[0]))))
    found = timed.stopwatch.time(Default().fit(noise[0]), None)
    turn = [("policy", 1)] * 8 + [("static", 1)] * 8
    assert ran[: len(turn) * (timing.TURNS + 1)] == turn * (timing.TURNS + 1)
    assert ran[len(turn) * (timing.TURNS + 1) :] == [("policy", 32), ("static", 32)] * (timing.TURNS + 1)
    for size in ("1", "32"):
        ratio = found["static_ratio"][size]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert found["milliseconds"][size] > 0
    static = timed.stopwatch.static_milliseconds()
    assert static is not None
    assert set(static) == {"1", "32"}


def test_the_static_network_is_the_default_with_folded_norms(timed: Timed, network: dynamic.DynamicNetwork) -> None:
    norms = [module for module in timed.static.program.segments for module in module.module.modules()]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in norms)
    assert timed.static.norms is None
    assert timed.network.norms is not None
    images = timed.stopwatch.images
    assert isinstance(images, torch.Tensor)
    assert (timed.stopwatch.run_static(images) == network.original(images).argmax(dim=1).numpy()).all()


def test_the_ratio_says_how_many_times_as_fast_as_the_static_network(
    timed: Timed, noise: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that says a policy takes twice as long as the static network, four times in one turn."""
    durations = iter([2.0, 1.0] * 3 + [4.0, 1.0] + [2.0, 1.0] * 20)
    monkeypatch.setattr(Stopwatch, "_seconds", lambda *_: next(durations))
    found = replace(timed.stopwatch, images=timed.stopwatch.images[:20]).time(Default().fit(noise[0]), None)
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


def test_nothing_is_known_before_a_turn(timed: Timed) -> None:
    assert timed.stopwatch.static_milliseconds() is None
