"""Other networks as static rivals: kept by the bit, refused on other images, compared at their own cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamic import UserError
from selector.learning.fitting import calibrate
from selector.observation.observations import Observations
from selector.policies import make
from selector.policies.base import Policy
from selector.policies.running import PolicyRuns, run_recorded
from selector.scoring.ranking import Ranking, rank
from selector.scoring.rivals import StaticNetwork, against_networks, read_rivals, write_rivals
from selector.scoring.sentences import _beside

Splits = tuple[Observations, Observations]


@pytest.fixture(scope="module")
def ranked(ruled: Splits) -> tuple[list[Policy], Ranking]:
    policies = [calibrate(policy, ruled[0]) for policy in make("correctness,stagewise")]
    return policies, rank(policies, ruled[0], PolicyRuns(ruled[1]))


def _network(splits: Splits, name: str, macs: float, seed: int = 0) -> StaticNetwork:
    draw = np.random.default_rng(seed)
    label, test = (draw.random(len(split)) < 0.7 for split in splits)
    return StaticNetwork(name=name, macs=macs, label=label, test=test)


def test_what_is_kept_is_what_was_measured(ruled: Splits, tmp_path: Path) -> None:
    path = tmp_path / "rivals.json"
    assert read_rivals(path, *ruled) == []
    made = [_network(ruled, "one", 3e6), _network(ruled, "two", 5e6, seed=1)]
    write_rivals(path, made, *ruled)
    for before, after in zip(made, read_rivals(path, *ruled), strict=True):
        assert (before.name, before.macs) == (after.name, after.macs)
        np.testing.assert_array_equal(before.label, after.label)
        np.testing.assert_array_equal(before.test, after.test)
    label, test = ruled
    with pytest.raises(UserError, match="made on other images: give --rivals again"):
        read_rivals(path, label, test.rows(np.arange(len(test) - 1)))
    path.write_text(path.read_text().replace("one", "eno"))
    with pytest.raises(UserError, match="damaged"):
        read_rivals(path, *ruled)


def test_policies_beside_a_network_are_chosen_by_the_label_split(
    ruled: Splits, ranked: tuple[list[Policy], Ranking]
) -> None:
    policies, ranking = ranked
    label, test = ruled
    points = [point for policy in policies if policy.learned for point in policy.points_]
    costs = sorted(point.macs for point in points)
    dear, cheap = _network(ruled, "dear", costs[-1]), _network(ruled, "cheap", costs[0] / 2)
    perfect = StaticNetwork(name="perfect", macs=costs[3], label=np.ones(len(label), bool), test=np.ones(len(test), bool))
    rows = against_networks([dear, cheap, perfect], policies, label, PolicyRuns(test), ranking.references)
    assert [row["name"] for row in rows] == ["dear", "cheap", "perfect"]
    assert rows[1]["for_its_cost"] is None
    assert rows[2]["for_its_accuracy"] is None
    assert "for no more no policy has a setting" in _beside(rows[1], {"gmacs": 1.0})
    compared = [(row, kind) for row in rows for kind in ("for_its_cost", "for_its_accuracy") if row[kind]]
    assert len(compared) == 4
    for row, kind in compared:
        network = {"dear": dear, "cheap": cheap, "perfect": perfect}[row["name"]]
        chosen, versus = row[kind], row[kind]["versus"]
        policy = next(policy for policy in policies if policy.name == chosen["policy"])
        point = next(point for point in policy.points_ if point.dial == chosen["dial"])
        if kind == "for_its_cost":
            assert point.accuracy == max(other.accuracy for other in points if other.macs <= network.macs)
        else:
            assert point.macs == min(other.macs for other in points if other.accuracy >= network.label.mean())
        (outcome,) = run_recorded(policy, test, [point.dial])
        assert chosen["gmacs"] == outcome.macs.mean() / 1e9
        assert chosen["accuracy"] == (outcome.predicted == test.labels).mean()
        assert versus["value"] == pytest.approx(chosen["accuracy"] - network.test.mean())
        assert versus["won"] - versus["lost"] == round(versus["value"] * len(test))
        assert versus["p"] <= versus["p_holm"] <= min(1, 4 * versus["p"]) + 1e-12
        assert row["versus_default"]["value"] == pytest.approx(network.test.mean() - ranking.references.default.mean())
        assert f"{chosen['policy']}, chosen on the label split" in _beside(row, {"gmacs": 1.0})
