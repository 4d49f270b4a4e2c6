"""Further views of label images are learned from, and promise nothing: neither of themselves nor of their own image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dynamic
from dynamic import UserError
from oracle.data.folders import FolderSource
from oracle.data.scenes_source import ScenesSource
from oracle.data.views import View, drawn_again, view_source
from selector.learning import fitting
from selector.learning.fitting import FOLDS, calibrate
from selector.observation.observations import Observations
from selector.policies.boosting import Correctness
from tests.image_folders import fill


def test_photographs_are_put_into_other_scenes() -> None:
    source = ScenesSource("wide", seed=3, images=20)
    again = drawn_again(source, 1)
    assert again.keys.tolist() == source.keys.tolist()
    assert again.labels.tolist() == source.labels.tolist()
    assert again.identity["seed"] == "4"
    assert again.identity["images"] == source.identity["images"]
    rows = np.arange(40)
    once, twice, other = (each.load(rows).images for each in (again, drawn_again(source, 1), drawn_again(source, 2)))
    assert torch.equal(once, twice)
    for first, second in ((once, source.load(rows).images), (once, other)):
        assert not (first == second).flatten(1).all(1).any()
    # Seen through a view of the run's own, they are drawn again and then seen so.
    cropped = drawn_again(view_source(source, View(crop=0.5)), 1)
    assert cropped.resolution == source.resolution // 2
    assert torch.equal(cropped.load(rows).images, view_source(again, View(crop=0.5)).load(rows).images)


def test_pictures_are_mirrored(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    info = dynamic.load("mobilenet_v2-slim", weights=None, classes=2).info
    source = FolderSource("imagefolder", tmp_path, info, None, 0, None)
    again, rows = drawn_again(source, 1), np.arange(len(source.keys))
    assert torch.equal(again.load(rows).images, source.load(rows).images.flip(-1))
    assert again.identity == source.identity | {"mirror": "yes"}
    assert again.keys.tolist() == source.keys.tolist()
    with pytest.raises(UserError, match="pictures have two views, as they are and mirrored: --views 2 at most"):
        drawn_again(source, 2)


def test_centres_are_mirrored_along() -> None:
    source = ScenesSource("matched", seed=0, images=4)
    mirrored = view_source(source, View(mirror=True))
    assert np.allclose(mirrored.centres[:, 0], 1 - source.centres[:, 0])
    assert np.allclose(mirrored.centres[:, 1], source.centres[:, 1])


def test_observations_of_different_portfolios_are_not_joined(ruled: tuple[Observations, Observations]) -> None:
    label = ruled[0].rows(np.arange(3))
    with pytest.raises(ValueError, match="different portfolios"):
        Observations.joined([label, replace(label, portfolio=label.portfolio[::-1])])


def test_no_view_of_an_image_is_learned_from_where_something_is_promised_of_it(
    ruled: tuple[Observations, Observations], monkeypatch: pytest.MonkeyPatch
) -> None:
    label = ruled[0].rows(np.arange(200))
    viewed = label.rows(np.arange(150)[::-1])  # in another order, and some of them could not be read
    both = Observations.joined([label, replace(viewed, labels=(viewed.labels + 1) % 10)])
    learned: list[Observations] = []
    promised: list[Observations] = []

    class Watched(Correctness):
        from_views = True

        def _fit(self, observed: Observations) -> None:
            learned.append(observed)
            super()._fit(observed)

    run_recorded = fitting.run_recorded

    def watched(policy: Correctness, observed: Observations, dials: list[float]) -> object:
        promised.append(observed)
        return run_recorded(policy, observed, dials)

    monkeypatch.setattr(fitting, "run_recorded", watched)
    policy = calibrate(Watched(rounds=2), label, learned_from=both)
    assert [len(each) for each in learned[:1]] == [350]
    assert (policy.labels_, policy.promised_on_, policy.views_) == (200, 200, 2)
    assert len(learned) == FOLDS + 1
    known = dict(zip(label.keys, label.labels, strict=True))
    for fitted, held in zip(learned[1:], promised, strict=True):
        assert not set(fitted.keys) & set(held.keys)
        assert set(fitted.keys) | set(held.keys) == set(label.keys)
        assert len(fitted) == 150 + np.isin(fitted.keys[:150], viewed.keys).sum()
        assert [known[key] for key in held.keys] == held.labels.tolist()  # as they are, not as they were seen again
    assert sum(map(len, promised)) == 200
    # Policies that gain nothing by views learn from the images as they are.
    plain = calibrate(Correctness(rounds=2), label)
    assert Correctness.from_views is False
    assert calibrate(Correctness(rounds=2), label, learned_from=both).points_ == plain.points_
    assert calibrate(Watched(rounds=2), label).points_ == plain.points_
