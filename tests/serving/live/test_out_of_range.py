from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from dynamic.scenes import FashionScenes
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.plans import Plan
from serving.live.out_of_range import RangeWatch


def warned_after(watch: RangeWatch, deployment: Deployment, scenes: FashionScenes, count: int) -> int | None:
    """How many images until the warning."""
    for first in range(0, count, 100):
        images = scenes.render(range(first, min(first + 100, count))).numpy()
        results = answer(deployment, images, [deployment.active] * len(images))
        for position, result in enumerate(results):
            watch.see(result, deployment.active)
            if watch.warns:
                return first + position + 1
    return None


def test_objects_of_other_sizes_are_noticed_within_some_hundred_images(
    deployment: Deployment, heard: list[logging.LogRecord]
) -> None:
    """The shipped run ``matched`` under its cascade; nobody has labels here."""
    watch = RangeWatch(deployment)
    after = warned_after(watch, deployment, FashionScenes("label", "wide"), 600)
    assert after is not None
    assert after <= 400
    report = watch.report()
    assert report["latest"]["gmacs"] > report["expected"]["gmacs"]
    assert report["latest"]["confidence"] < report["expected"]["confidence"]
    assert sum(report["latest"]["reached"]) == pytest.approx(1, abs=1e-3)
    assert [record.getMessage() for record in heard] == ["live images are unlike those that the policy was measured on"]


def test_images_like_those_of_the_run_are_not(deployment: Deployment) -> None:
    watch = RangeWatch(deployment)
    assert warned_after(watch, deployment, FashionScenes("label", "matched"), 800) is None
    assert watch.report()["images"] == 800


@pytest.mark.nightly
def test_nor_are_twenty_thousand_of_them(deployment: Deployment) -> None:
    """10,000 label photographs, and the test photographs drawn anew: other scales, places and clutter."""
    watch = RangeWatch(deployment)
    assert warned_after(watch, deployment, FashionScenes("label", "matched"), 10_000) is None
    assert warned_after(watch, deployment, FashionScenes("test", "matched", seed=1), 10_000) is None
    assert watch.report()["images"] == 20_000


def test_other_plans_do_not_count_and_without_counts_nothing_is_watched(deployment: Deployment) -> None:
    watch = RangeWatch(deployment)
    result = answer(deployment, np.zeros((1, 3, 96, 96), np.float32), [Plan(policy="default")])[0]
    watch.see(result, Plan(policy="default"))
    assert watch.report()["images"] == 0
    unknown = RangeWatch(dataclasses.replace(deployment, reached={}))
    unknown.see(result, deployment.active)
    assert not unknown.report()["watched"]
