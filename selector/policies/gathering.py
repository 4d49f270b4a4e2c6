"""What policies ask of images, as one table of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from selector.observation.images import Group, Images, RecordedImages
from selector.observation.observations import Observations, in_parts
from selector.policies.asking import ANSWER


def gather(images: Images, groups: Sequence[str]) -> np.ndarray:
    """(N, features) float32 of several groups side by side; each is charged.

    ``answer:COLUMN`` or ``answer:default`` is what that configuration answers: see :func:`answer_features`.
    """
    parts = []
    for group in groups:
        if group.startswith(ANSWER):
            column = group.removeprefix(ANSWER)
            parts.append(answer_features(images.look(images.default if column == "default" else int(column))))
        else:
            found = images.features(cast(Group, group))
            parts.append(found.reshape(len(found), -1))
    return np.concatenate(parts, axis=1)


def gather_recorded(observed: Observations, groups: Sequence[str]) -> np.ndarray:
    """:func:`gather` of all observed images, some at a time: nothing but what it returns is ever whole."""
    return np.concatenate([gather(RecordedImages(part), groups) for part in in_parts(observed)])


TOP = 3


def answer_features(probabilities: np.ndarray) -> np.ndarray:
    """(N, classes) probabilities as features: the largest three, their margin, the entropy, the class, all logarithms.

    The logarithms are left out for more than 64 classes.
    """
    ordered = np.sort(probabilities, axis=1)[:, ::-1]
    logs = np.log(np.clip(probabilities, 1e-6, 1))
    entropy = -(probabilities * logs).sum(axis=1)
    margin = ordered[:, 0] - ordered[:, min(1, ordered.shape[1] - 1)]
    parts = [ordered[:, :TOP], margin[:, None], entropy[:, None], probabilities.argmax(axis=1)[:, None]]
    if probabilities.shape[1] <= 64:
        parts.append(logs)
    return np.concatenate(parts, axis=1).astype(np.float32)
