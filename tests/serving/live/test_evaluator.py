from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dynamic.models import load
from serving.ids import new_id
from serving.inference.deployment import Deployment
from serving.live.evaluator import Evaluator, evaluate
from serving.live.live_gap import live_gap
from serving.live.store import Store
from serving.settings import ServingSettings
from tests.plain_loop import plain_loop
from tests.serving.live.records import kept, labelled, stored, until


def test_an_evaluation_is_what_a_plain_loop_over_the_portfolio_says(
    deployment: Deployment, scenes: tuple[list[bytes], np.ndarray]
) -> None:
    """On the default alone the statistics are the network's own, so the loop can check it."""
    pictures, labels = scenes
    original = load("resnet50-slim", weights="distillation-ladder").original
    for data, label in zip(pictures[:6], labels, strict=False):
        found = evaluate(deployment, labelled(int(label), int(label)), data, 25)
        assert found is not None
        image = deployment.transform(Image.open(io.BytesIO(data)))[None]
        expected = plain_loop(original, "resnet50-slim", [deployment.default], torch.from_numpy(image.copy()))[0, 0]
        assert found.right[deployment.default.id] == (int(expected.argmax()) == label)
        assert found.right.keys() == {c.id for c in deployment.portfolio}
        costs = dict(zip(found.right, deployment.costs.whole, strict=True))
        if any(found.right.values()):
            assert found.oracle_macs in [costs[name] for name, right in found.right.items() if right]
        else:
            assert found.oracle_macs == deployment.costs.whole.min()


def test_an_evaluation_that_a_later_label_takes_back_stays_spent(
    deployment: Deployment, store: Store, scenes: tuple[list[bytes], np.ndarray]
) -> None:
    pictures, labels = scenes
    store.add_answers([stored("a", 0, deployment.key)], [("a", pictures[0])], 60)
    store.add_label("a", deployment.key, int(labels[0]))
    evaluator = Evaluator(deployment, store, ServingSettings(evaluate_per_hour=1), lambda: True)
    until(lambda: bool(store.evaluations(deployment.key, 10)))
    store.add_label("a", deployment.key, int(labels[0] + 1) % 10)
    assert store.evaluated_since(0) == 0
    assert not evaluator._within_budget()
    evaluator.close()


@pytest.mark.slow
def test_labelled_images_are_evaluated_when_the_service_rests_and_the_live_gap_counts_them(
    deployment: Deployment, store: Store, scenes: tuple[list[bytes], np.ndarray]
) -> None:
    pictures, labels = scenes
    ids = [new_id() for _ in range(12)]
    answers = [stored(i, int(y) if n % 3 else -1, deployment.key) for n, (i, y) in enumerate(zip(ids, labels, strict=False))]
    store.add_answers(answers, list(zip(ids, pictures, strict=False)), 60)
    for id_, label in zip(ids, labels, strict=False):
        store.add_label(id_, deployment.key, int(label))
    busy = True
    evaluator = Evaluator(deployment, store, ServingSettings(evaluate_per_hour=10), lambda: not busy)
    time.sleep(0.7)
    assert store.evaluations(deployment.key, 100) == [], "it waits while the service works"
    busy = False
    until(lambda: len(store.evaluations(deployment.key, 100)) >= 10)
    time.sleep(0.7)
    evaluator.close()
    assert len(store.evaluations(deployment.key, 100)) == 10, "not more than the budget"
    live = live_gap(deployment, store)
    assert (live["labelled"], live["evaluated"]) == (12, 10)
    assert live["answered"][0]["accuracy"] == pytest.approx(8 / 12)
    case = live["compared"][0]
    images = np.stack([deployment.transform(Image.open(io.BytesIO(p))) for p in pictures[:10]])
    default = deployment.network.session(images).mixed([deployment.default] * 10).argmax(1) == labels[:10]
    assert case["cases"]["default"]["accuracy"] == pytest.approx(default.mean())
    assert case["cases"]["oracle"]["accuracy"] >= case["cases"]["default"]["accuracy"]
    low, high = case["cases"]["oracle"]["accuracy_ci"]
    assert low <= case["cases"]["oracle"]["accuracy"] <= high
    assert len(kept(store)) == 2
