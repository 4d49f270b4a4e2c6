"""The cascade's loop over rungs against one image at a time, and agreement against numpy's own closeness."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from selector.observation.images import Images
from selector.policies.answers import consensus, tempered
from selector.policies.cascade import KEPT, Cascade, _Step

COLUMNS, CLASSES, COUNT = 4, 5, 60


class Answering:
    """Images that only answer, and count what they were asked."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self._probabilities = probabilities
        self.asked = np.zeros(probabilities.shape[:2], dtype=int)

    def __len__(self) -> int:
        return len(self._probabilities)

    def look(self, column: int, rows: np.ndarray) -> np.ndarray:
        self.asked[rows, column] += 1
        return self._probabilities[rows, column]


def probabilities(seed: int) -> np.ndarray:
    stream = np.random.default_rng(seed)
    made = stream.dirichlet(np.full(CLASSES, 0.5), (COUNT, COLUMNS)).astype(np.float16).astype(np.float32)
    made[::7, 1] = 0  # logits that are not finite
    made[3::7] = made[3::7, :1]  # rungs that agree to the last bit
    return made


def agreed(together: np.ndarray, answers: np.ndarray, looked: np.ndarray) -> np.ndarray:
    """:func:`consensus` by numpy's isclose."""
    chosen = together.argmax(axis=1)
    agreeing = (answers.argmax(axis=2) == chosen[:, None]) & ~np.isclose(answers, answers[:, :, :1]).all(axis=2)
    sure = np.take_along_axis(answers, chosen[:, None, None], axis=2)[:, :, 0]
    return np.take_along_axis(np.broadcast_to(looked, sure.shape), (sure + agreeing).argmax(axis=1)[:, None], axis=1)[:, 0]


def alone(step: _Step, temperatures: np.ndarray, image: np.ndarray) -> tuple[int, list[int]]:
    """The configuration of one image, and those it was asked for."""
    answers: list[np.ndarray] = []
    for rung, column in enumerate(step.columns):
        answers.append(tempered(image[column], temperatures[column]))
        together = answers[0]
        for answer in answers[1:]:
            together = KEPT * together + (1 - KEPT) * answer
        if rung + 1 == len(step.columns) or not together.max() < step.thresholds[rung]:
            break
    looked = step.columns[: len(answers)]
    return int(agreed(together[None], np.stack(answers)[None], np.array(looked))[0]), looked


@pytest.mark.parametrize("thresholds", [[], [0.7], [0.8, 0.9], [0.0, 0.9], [2.0, 2.0], [2.0, 0.0]])
@pytest.mark.parametrize("seed", [0, 1])
def test_decides_as_one_image_at_a_time(thresholds: list[float], seed: int) -> None:
    cascade = Cascade()
    step = _Step(macs=1.0, accuracy=0.5, columns=[2, 1, 3][: len(thresholds) + 1], thresholds=thresholds)
    cascade.steps_ = [step]
    cascade.temperatures_ = np.array([1.0, 0.7, 1.3, 2.0], dtype=np.float32)
    made = probabilities(seed)
    images = Answering(made)
    expected = [alone(step, cascade.temperatures_, image) for image in made]
    decided = cascade._decide(cast(Images, images), 0.0)
    assert decided.tolist() == [column for column, _ in expected]
    assert images.asked.sum(axis=1).tolist() == [len(looked) for _, looked in expected]
    assert images.asked.max() == 1


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_that_of_closeness(seed: int) -> None:
    answers = tempered(probabilities(seed), 1.5)
    answers[::5, 2] = 1 / CLASSES  # an answer that prefers no class
    answers[1::5, 2] = 1 / CLASSES + np.array([0, 1e-6, -1e-6, 2e-6, 3e-6])
    looked = np.array([4, 9, 1, 7])
    together = answers.mean(axis=1)
    assert (consensus(together, answers, looked) == agreed(together, answers, looked)).all()
