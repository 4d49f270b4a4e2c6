from __future__ import annotations

import pytest

from serving.inference.deployment import Deployment
from serving.live.live_gap import live_gap
from serving.live.store import Store
from tests.serving.live.records import evaluation, stored


def test_the_live_gap_is_undefined_where_the_oracle_gains_nothing(deployment: Deployment, store: Store) -> None:
    right = {c.id: True for c in deployment.portfolio}
    store.add_answers([stored("a", network=deployment.key)])
    store.add_label("a", deployment.key, 3)
    store.add_evaluation(deployment.key, evaluation("a", True, right), 3)
    case = live_gap(deployment, store)["compared"][0]
    assert case["recovered_gap"] is None
    assert case["closed_gap_ci"] is None


def test_the_live_gap_is_the_share_of_the_oracle_that_the_policy_reaches(deployment: Deployment, store: Store) -> None:
    """40 images: default right on 20, policy on 25, oracle on 30."""
    ids = [c.id for c in deployment.portfolio]
    other = next(id_ for id_ in ids if id_ != deployment.network.default.id)
    for number in range(40):
        right = dict.fromkeys(ids, number < 20) | {other: number < 30}
        id_ = f"{number:02d}"
        store.add_answers([stored(id_, 3 if number < 25 else 4, deployment.key)])
        store.add_label(id_, deployment.key, 3)
        store.add_evaluation(deployment.key, evaluation(id_, number < 25, right), 3)
    case = live_gap(deployment, store)["compared"][0]
    assert case["recovered_gap"] == pytest.approx(0.5)
    low, high = case["recovered_gap_ci"]
    assert 0 < low < 0.5 < high < 1
