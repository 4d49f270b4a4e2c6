"""Two classes so near that half precision ties them: whoever rounds names the first of them, which is not the larger."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from selector.observation.answers import probabilities_of
from serving.classifier import Classifier
from serving.errors import Rejection
from serving.http.urgency import Urgency
from serving.inference.decoding import open_picture
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.opening import open_deployment
from serving.inference.plans import Plan
from serving.live.evaluator import evaluate
from serving.live.store import Store
from serving.schema import Feedback, Options
from serving.settings import ServingSettings
from tests.serving.live.records import labelled

LESS, MORE = 3, 7


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServingSettings:
    url = f"sqlite:///{tmp_path_factory.mktemp('classifier')}/serving.db"
    return ServingSettings(network="resnet50-slim", static=True, device="cpu", threads=1, database=url)


@pytest.fixture(scope="module")
def opened(settings: ServingSettings) -> Deployment:
    return open_deployment(settings)


@pytest.fixture
def deployment(opened: Deployment) -> Deployment:
    """A network that answers every picture with the same logits."""
    logits = torch.zeros(10)
    logits[LESS], logits[MORE] = 2.0, 2.0001
    for head in heads(opened):
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(logits)
    return opened


def heads(deployment: Deployment) -> list[torch.nn.Linear]:
    found = [module for module in deployment.network.network.modules() if isinstance(module, torch.nn.Linear)]
    assert found
    return found


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_engine_names_the_larger_of_two_that_half_precision_ties(deployment: Deployment) -> None:
    result = answer(deployment, np.zeros((1, 3, 96, 96), np.float32), [Plan(policy="default")])[0]
    assert result.probabilities.dtype == np.float32
    assert np.float16(result.probabilities[LESS]) == np.float16(result.probabilities[MORE])
    assert result.predicted == MORE


def test_the_service_names_the_larger_and_stores_it(deployment: Deployment, settings: ServingSettings) -> None:
    async def main() -> None:
        store = Store(settings.database)
        classifier = Classifier(settings, deployment, store)
        try:
            found = (await classifier.answer([open_picture(picture(), 25)], Options(top_k=2)))[0]
            assert not isinstance(found, Rejection)
            assert [prediction.index for prediction in found.predictions] == [MORE, LESS]
            assert (await classifier.feedback(Feedback(id=found.id, label=MORE))).right
        finally:
            await classifier.close()

    asyncio.run(main())


def test_an_image_whose_deadline_is_over_is_refused_not_computed(deployment: Deployment, settings: ServingSettings) -> None:
    async def main() -> None:
        classifier = Classifier(settings, deployment, Store(settings.database))
        try:
            (late,) = await classifier.answer([open_picture(picture(), 25)], Options(), Urgency(deadline=time.monotonic()))
            assert isinstance(late, Rejection)
            assert late.code == "overloaded"
        finally:
            await classifier.close()

    asyncio.run(main())


def test_the_evaluator_counts_the_larger_as_the_answer(deployment: Deployment) -> None:
    found = evaluate(deployment, labelled(MORE, MORE), picture(), 25)
    assert found is not None
    assert found.right == {deployment.default.id: True}


def test_probabilities_are_unrounded_and_zero_where_a_logit_is_not_finite() -> None:
    logits = np.array([[2.0, 2.0001], [0.0, float("inf")], [float("nan"), 0.0]])
    found = probabilities_of(logits)
    assert found.dtype == np.float32
    assert found[0, 1] > found[0, 0]
    assert found[1:].tolist() == [[0.0, 0.0]] * 2


def test_a_network_whose_answer_is_not_finite_predicts_nothing(deployment: Deployment, settings: ServingSettings) -> None:
    for head in heads(deployment):
        with torch.no_grad():
            head.bias[0] = float("nan")

    async def main() -> None:
        classifier = Classifier(settings, deployment, Store(settings.database))
        try:
            found = (await classifier.answer([open_picture(picture(), 25)], Options()))[0]
            assert not isinstance(found, Rejection)
            assert found.predictions == []
            assert not (await classifier.feedback(Feedback(id=found.id, label=0))).right
        finally:
            await classifier.close()

    asyncio.run(main())


def test_a_deployment_without_its_active_policy_is_refused(deployment: Deployment) -> None:
    with pytest.raises(ValueError, match="no policy cascade"):
        dataclasses.replace(deployment, active=Plan(policy="cascade"))


def test_closing_stores_what_was_answered_even_if_an_earlier_step_fails(
    deployment: Deployment, settings: ServingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    async def main() -> str:
        store = Store(settings.database)
        classifier = Classifier(settings, deployment, store)
        found = (await classifier.answer([open_picture(picture(), 25)], Options()))[0]
        assert not isinstance(found, Rejection)
        end = classifier.batcher.close
        monkeypatch.setattr(classifier.batcher, "close", lambda: 1 / 0)
        monkeypatch.setattr(store, "close", lambda: closed.append("store"))
        with pytest.raises(ZeroDivisionError):
            await classifier.close()
        await end()
        return found.id

    id_ = asyncio.run(main())
    assert closed == ["store"]
    later = Store(settings.database)
    assert later.add_label(id_, deployment.key, 0) is not None
    later.close()


def test_a_label_that_changes_too_often_is_a_conflict(deployment: Deployment, settings: ServingSettings) -> None:
    async def main() -> None:
        few = settings.model_copy(update={"label_changes": 1})
        classifier = Classifier(few, deployment, Store(settings.database))
        try:
            found = (await classifier.answer([open_picture(picture(), 25)], Options()))[0]
            assert not isinstance(found, Rejection)
            for label in (1, 2, 2):
                await classifier.feedback(Feedback(id=found.id, label=label))
            with pytest.raises(Rejection, match="changed 1 times already") as refused:
                await classifier.feedback(Feedback(id=found.id, label=1))
            assert (refused.value.code, refused.value.status) == ("conflict", 409)
        finally:
            await classifier.close()

    asyncio.run(main())
