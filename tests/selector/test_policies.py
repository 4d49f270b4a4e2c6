"""One check suite over every policy, on outcomes whose rule is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dynamic
from dynamic import UserError
from dynamic.integrity import read_record, write_record
from oracle.runs import Run
from selector.interchange.asf import AsfPairwise
from selector.learning.fitting import calibrate
from selector.observation.images import Group, RecordedImages
from selector.observation.observations import Observations
from selector.policies import LEARNED, REFERENCES, load_policies, load_policy, make
from selector.policies.base import Policy
from selector.policies.blend import Blend, SecondLook, TopTwo
from selector.policies.boosting import Correctness
from selector.policies.cascade import Averaging, Cascade
from selector.policies.constant import Default, Oracle, SingleBest
from selector.policies.head import Head
from selector.policies.objectives import OperatingPoint
from selector.policies.running import run_policy
from selector.policies.scoring import Neighbours
from selector.policies.stagewise import Stagewise
from selector.scoring.controls import shuffled_control
from selector.scoring.metrics import References, closed_gap, closed_gap_interval

Splits = tuple[Observations, Observations]

EVERY = [*REFERENCES, *LEARNED]

VOTING = ("averaging", "cascade", "stacking", "top_two")
"""Policies that put several answers together."""


def quick(policy: type[Policy]) -> Policy:
    """With parameters that fit 1,200 images and a test's patience."""
    parameters: dict[type[Policy], dict[str, object]] = {
        Neighbours: {"k": 9, "groups": ("map",)},
        Head: {"epochs": 15},
        Stagewise: {"prices": (0.0,)},
        Cascade: {"rungs": 4, "candidates": 4},
        **{blend: {"rounds": 60, "epochs": 12} for blend in (Blend, SecondLook, TopTwo)},
    }
    return policy(**parameters.get(policy, {}))


@pytest.fixture(scope="session")
def fitted(ruled: Splits) -> dict[str, Policy]:
    policies = {policy.name: quick(policy).fit(ruled[0]) for policy in EVERY}
    for policy in policies.values():
        policy.points_ = (OperatingPoint(0.25, 0.5, 1e6),)
    return policies


@pytest.mark.parametrize("name", [policy.name for policy in EVERY])
def test_contract(name: str, fitted: dict[str, Policy], ruled: Splits, noise: Splits, tmp_path: Path) -> None:
    policy, (label, test) = fitted[name], ruled
    for dial in list(policy.dials)[::4] or [None]:
        chosen = policy.decide(RecordedImages(test), dial)
        # Valid ids.
        assert chosen.shape == (len(test),)
        assert set(policy.predict(RecordedImages(test), dial)) <= {c.id for c in label.portfolio}
        # A permutation of the batch permutes the answer; a batch may have one image, or none.
        order = np.random.default_rng(0).permutation(len(test))
        assert (policy.decide(RecordedImages(test.rows(order)), dial) == chosen[order]).all()
        assert [int(policy.decide(RecordedImages(test.rows(np.array([row]))), dial)[0]) for row in (0, 7)] == chosen[
            [0, 7]
        ].tolist()
        assert policy.decide(RecordedImages(test.rows(np.arange(0))), dial).shape == (0,)
    # Saved and loaded it decides the same, and remembers what it was fitted on.
    policy.save(tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    assert (loaded.decide(RecordedImages(test), dial) == chosen).all()
    assert loaded.fitted_on_ == set(label.keys)
    assert loaded.parameters() == policy.parameters()
    assert loaded.points_ == policy.points_
    assert (
        run_policy(loaded, RecordedImages(test), dial).macs.tolist()
        == run_policy(policy, RecordedImages(test), dial).macs.tolist()
    )
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {path.split(".", 1)[1] for path in files} <= {"json", "parquet", "safetensors", "txt.gz"}


class Spied(RecordedImages):
    """Images that remember what they are asked."""

    def __init__(self, observed: Observations) -> None:
        super().__init__(observed)
        self.groups: set[str] = set()
        self.stages: set[tuple[int, int]] = set()
        self.answers: list[list[int]] = [[] for _ in observed.keys]

    def _features(self, group: Group) -> np.ndarray:
        self.groups.add(group)
        return super()._features(group)

    def _stage(self, layer: int, column: int, rows: np.ndarray) -> np.ndarray:
        self.stages.add((layer, column))
        return super()._stage(layer, column, rows)

    def _look(self, column: int, rows: np.ndarray) -> np.ndarray:
        self._remember(column, rows)
        return super()._look(column, rows)

    def _answer(self, column: int, rows: np.ndarray) -> np.ndarray:
        self._remember(column, rows)
        return super()._answer(column, rows)

    def _remember(self, column: int, rows: np.ndarray) -> None:
        for row in rows:
            if column not in self.answers[row]:
                self.answers[row].append(column)


def within(asked: list[int], ladder: tuple[int, ...]) -> bool:
    """Whether ``asked`` comes in this order in ``ladder``."""
    rungs = iter(ladder)
    return all(column in rungs for column in asked)


@pytest.mark.parametrize("name", [policy.name for policy in EVERY])
def test_nothing_is_asked_that_was_not_declared(name: str, fitted: dict[str, Policy], ruled: Splits) -> None:
    policy, test = fitted[name], ruled[1].rows(np.arange(200))
    asks = policy.asks(test.default, len(test.portfolio[0].stride))
    seen = set()
    for dial in list(policy.dials)[::4] or [None]:
        images = Spied(test)
        run_policy(policy, images, dial)
        assert images.groups <= set(asks.groups)
        assert images.stages <= set(asks.stages)
        seen |= images.groups
        for answers in images.answers:
            assert len(answers) == 1 or any(within(answers, ladder) for ladder in asks.ladders), answers
    # What is declared for nothing would be compiled for nothing.
    assert seen == set(asks.groups)
    needs = asks.needs(test.portfolio, test.default)
    assert {look.kind for look in needs.looks} <= {"pooled", "gridded"}


def test_a_policy_of_ones_own_may_ask_everything(network: dynamic.DynamicNetwork, ruled: Splits) -> None:
    class Own(Default):
        asks = Policy.asks

    asks = Own().fit(ruled[0]).asks(0, 4)
    assert set(asks.groups) == {"image", "stem", "prefix", "map"}
    assert len(asks.stages) == 16
    assert len(asks.ladders) == 12


@pytest.mark.parametrize("name", [policy.name for policy in EVERY])
def test_the_same_seed_gives_the_same_answer_and_refitting_forgets(name: str, ruled: Splits, noise: Splits) -> None:
    policy = quick(next(p for p in EVERY if p.name == name))
    part = ruled[0].rows(np.arange(400))
    policy.fit(noise[0].rows(np.arange(400)))
    policy.fit(part)
    again = policy.fresh().fit(part)
    assert policy.fitted_on_ == set(part.keys)
    for dial in list(policy.dials)[::4] or [None]:
        assert (policy.decide(RecordedImages(ruled[1]), dial) == again.decide(RecordedImages(ruled[1]), dial)).all()


def gap(policy: Policy, label: Observations, test: Observations, dial: float | None = None) -> tuple[float, list[float]]:
    """The closed gap on the test split with its interval."""
    single = int(SingleBest().fit(label).decide(RecordedImages(test))[0])
    references = References.of(test, single, run_policy(Oracle().fit(label).reveal(test), RecordedImages(test)))
    right = run_policy(policy, RecordedImages(test), dial).predicted == test.labels
    value = closed_gap(right, references.single_best, references.oracle)
    interval = closed_gap_interval(right, references.single_best, references.oracle, references.draws)
    assert value is not None
    assert interval is not None
    return value, list(interval)


@pytest.mark.parametrize("name", [policy.name for policy in LEARNED])
def test_a_rule_is_learned(name: str, fitted: dict[str, Policy], ruled: Splits) -> None:
    """The one right configuration is a function of a feature, and sure of itself: at least 95 % of the gap."""
    value, _ = gap(fitted[name], *ruled)
    assert value >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", [policy.name for policy in LEARNED])
def test_noise_is_not_claimed(name: str, noise: Splits) -> None:
    """Nothing tells which configuration is right: no interval may lie above zero."""
    label, test = noise
    policy = calibrate(quick(next(p for p in LEARNED if p.name == name)), label)
    point = policy.point("accuracy", 1.0, np.inf)
    assert point is not None
    value, interval = gap(policy, label, test, point.dial)
    if policy.name in VOTING:
        # Votes of configurations that err independently are better than one, without any choice: no more than a vote of all.
        votes, _ = gap(Averaging(most=4).fit(label), label, test, 4.0)
        assert value <= max(votes, 0) + 0.1
    else:
        assert interval[0] <= 0
        assert value < 0.05


def test_shuffled_labels_close_nothing(ruled: Splits) -> None:
    label, test = ruled
    single = int(SingleBest().fit(label).decide(RecordedImages(test))[0])
    references = References.of(test, single, run_policy(Oracle().fit(label).reveal(test), RecordedImages(test)))
    found = shuffled_control(label, test, references)
    assert found["closed_gap_ci"][0] <= 0
    # The same policy with the labels in place does close it: the control can fail.
    assert gap(Correctness().fit(label), label, test, 0.0)[0] > 0.9


def test_an_outside_selector_learns_the_rule(ruled: Splits) -> None:
    """asf-lib, on the exported ASlib scenario."""
    pytest.importorskip("asf.selectors")
    value, _ = gap(AsfPairwise(trees=10).fit(ruled[0]), *ruled)
    assert value >= 0.95


def test_what_was_looked_at_is_paid_for(ruled: Splits) -> None:
    label, test = ruled
    costs = test.costs
    cascade = Cascade(rungs=2).fit(label)
    outcome = run_policy(cascade, RecordedImages(test), 0.0)
    # On outcomes where one configuration is right, the cascade has to climb; it pays for the union of what it ran.
    step = cascade._step(0.0)
    assert len(step.columns) == 2
    both = costs.paths[step.columns].any(axis=0) @ costs.macs
    assert set(outcome.macs) == {float(costs.whole[step.columns[0]]), float(both)}
    assert both < costs.whole[step.columns].sum()
    averaging = Averaging(most=3).fit(label)
    assert set(run_policy(averaging, RecordedImages(test), 3.0).macs) == {
        float(costs.paths[averaging.order_].any(axis=0) @ costs.macs)
    }


def test_policies_refuse(ruled: Splits, noise: Splits, tmp_path: Path) -> None:
    label, test = ruled
    with pytest.raises(UserError, match="cascade is not fitted"):
        Cascade().decide(RecordedImages(test))
    with pytest.raises(UserError, match="learn from the label split only; these images are of the test split"):
        Cascade().fit(test)
    with pytest.raises(UserError, match="cannot be fitted on no images"):
        Cascade().fit(label.rows(np.arange(0)))
    with pytest.raises(UserError, match="has not been shown the truth about test/2-00000"):
        Oracle().fit(label).decide(RecordedImages(test))
    with pytest.raises(UserError, match="no learned policy is called 'magic': choose from preferred_classifier"):
        make("magic")
    with pytest.raises(UserError, match=r"no policies in .*: learn them"):
        load_policies(Run(tmp_path))
    (tmp_path / "broken").mkdir()
    with pytest.raises(UserError, match=r"holds no policy \(no policy.json\)"):
        load_policy(tmp_path / "broken")
    facts = {"policy": "cascade", "parameters": {}, "network": {"weights": "a", "statistics": "b"}}
    write_record(tmp_path / "broken" / "policy.json", facts)
    with pytest.raises(UserError, match="holds no whole cascade policy"):
        load_policy(tmp_path / "broken")
    write_record(tmp_path / "broken" / "policy.json", facts | {"network": None})
    with pytest.raises(UserError, match="does not say which network it belongs to"):
        load_policy(tmp_path / "broken")
    write_record(tmp_path / "broken" / "policy.json", {"policy": "wisdom"})
    with pytest.raises(UserError, match="unknown kind 'wisdom'"):
        load_policy(tmp_path / "broken")


def test_a_head_of_an_earlier_version_sees_what_it_was_fitted_on(ruled: Splits, tmp_path: Path) -> None:
    few = ruled[0].rows(np.arange(100))
    fitted = Head(epochs=1, groups=("map", "image", "stem")).fit(few)
    fitted.save(tmp_path)
    facts = dict(read_record(tmp_path / "policy.json"))
    facts["parameters"] = {name: value for name, value in facts["parameters"].items() if name != "groups"}
    write_record(tmp_path / "policy.json", facts)
    test = ruled[1].rows(np.arange(50))
    loaded = load_policy(tmp_path)
    assert (loaded.decide(RecordedImages(test)) == fitted.decide(RecordedImages(test))).all()
    assert set(loaded.asks(test.default, 4).groups) == {"map", "image", "stem"}


def test_a_head_needs_its_map_and_a_vector() -> None:
    for groups in (("stem",), ("map",)):
        with pytest.raises(UserError, match="needs the group 'map' and at least one beside it"):
            Head(groups=groups)


def test_no_shipped_kind_of_policy_asks_for_statistics_of_pixels(fitted: dict[str, Policy], ruled: Splits) -> None:
    for policy in fitted.values():
        assert "image" not in policy.asks(ruled[1].default, 4).groups, policy.name


def test_stagewise_is_ready_for_every_fork(
    fitted: dict[str, Policy], ruled: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = fitted["stagewise"].fresh().fit(ruled[0].rows(np.arange(400)))
    policy.make_ready()
    made: list[bytes] = []
    monkeypatch.setattr("selector.policies.forest.small_graph", made.append)
    policy.decide(RecordedImages(ruled[1].rows(np.arange(200))))
    assert made == []
