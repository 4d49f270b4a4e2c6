"""What several policies learn alike is learned once, and each is what it would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selector.learning.fitting import calibrate
from selector.learning.training import fit_all
from selector.observation.observations import Observations
from selector.policies import cascade, head_training
from selector.policies.base import Policy
from selector.policies.blend import Blend, SecondLook, TopTwo
from selector.policies.boosting import Correctness
from selector.policies.cascade import Averaging, Cascade
from selector.policies.sharing import images_as, once, sharing

FITS = 5
"""Of each policy: on all images, and on those of each fold."""


def _policies() -> list[Policy]:
    small: dict[str, Any] = {"rounds": 3, "epochs": 1}
    return [Blend(**small), SecondLook(**small), TopTwo(**small), Cascade(), Averaging()]


def test_policies_that_share_are_those_that_were_fitted_alone(
    ruled: tuple[Observations, Observations], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = ruled[0].rows(slice(0, 200))
    tried = sum(policy.learned for policy in _policies())
    alone = [calibrate(policy, observed, 0, tried) for policy in _policies()]
    made = {"heads": 0, "temperatures": 0}

    def counting(module: Any, name: str, what: str) -> None:
        make = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            made[what] += 1
            return make(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    counting(head_training, "train_head", "heads")
    counting(cascade, "fit_temperatures", "temperatures")
    together = fit_all(_policies(), observed, tmp_path, 0)
    assert made == {"heads": FITS, "temperatures": 0}  # the first to need temperatures is of the blends
    for one, other in zip(alone, together, strict=True):
        mine, theirs = one._state(), other._state()
        assert (mine.facts, mine.texts) == (theirs.facts, theirs.texts)
        assert mine.arrays.keys() == theirs.arrays.keys()
        assert all(np.array_equal(mine.arrays[name], theirs.arrays[name]) for name in mine.arrays)
        assert one.points_ == other.points_


def test_a_policy_that_is_fitted_later_shares_the_risk_with_those_that_are_there(
    ruled: tuple[Observations, Observations], tmp_path: Path
) -> None:
    observed = ruled[0].rows(slice(0, 200))
    fit_all([Correctness(rounds=3)], observed, tmp_path, 0)
    (later,) = fit_all([Cascade()], observed, tmp_path, 0)
    assert later.points_ == calibrate(Cascade(), observed, 0, 2).points_ != calibrate(Cascade(), observed, 0, 1).points_
    (again,) = fit_all([Cascade()], observed, tmp_path, 0)
    assert again.points_ == later.points_
    fit_all([Averaging()], observed, tmp_path / "alone", 0)  # learns nothing that could be promised


def test_only_the_same_of_the_same_images_is_shared(ruled: tuple[Observations, Observations]) -> None:
    observed, others = ruled[0], ruled[0].rows(slice(0, 50))
    made: list[str] = []

    def make(what: str) -> str:
        made.append(what)
        return what

    for _ in range(2):
        once(observed, "a", lambda: make("outside"))
    with sharing():
        once(observed, "a", lambda: make("of images without a name"))
        for name, images in (("all", observed), ("fold", others), ("all", observed)):
            with images_as(name, images):
                for what in ("a", "b"):
                    assert once(images, what, lambda key=f"{name} {what}": make(key)) == f"{name} {what}"
                once(observed if images is others else others, "a", lambda: make("of others"))
    assert made == ["outside"] * 2 + ["of images without a name"] + [
        *("all a", "all b", "of others", "fold a", "fold b", "of others", "of others")
    ]
