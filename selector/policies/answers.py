"""Answers of several configurations together: calibrated by temperature, and named by one configuration that agrees."""

from __future__ import annotations

import numpy as np

from selector.observation.observations import Observations

ROWS = 256
"""Images whose answers are worked on at once, so that they stay in the processor's caches."""

_TRIED = np.geomspace(0.5, 4, 25)


def fit_temperatures(observed: Observations) -> np.ndarray:
    """(K,) float32: by what to divide each configuration's logits so that the label images are likeliest."""
    return np.array([_temperature(observed, column) for column in range(len(observed.portfolio))], dtype=np.float32)


def _temperature(observed: Observations, column: int) -> float:
    """Of one configuration. The loss is convex in the inverse of the temperature, so the search is by halves."""
    logs = np.clip(observed.probabilities[:, column], 1e-6, 1)
    np.log(logs, out=logs)
    known: dict[int, float] = {}

    def loss(place: int) -> float:
        if place not in known:
            known[place] = _true_loss(logs, _TRIED[place], observed.labels)
        return known[place]

    low, high = 0, len(_TRIED) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(middle) <= loss(middle + 1) else (middle + 1, high)
    return float(_TRIED[low])


def tempered(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Probabilities at another temperature: above 1 less sure, below 1 surer.

    Args:
        probabilities: (..., classes).
        temperature: by what to divide the logits; broadcast over the classes.

    Returns:
        (..., classes) float32.

    >>> print(tempered(np.array([0.8, 0.2]), 2.0).round(2))
    [0.67 0.33]
    """
    powered = np.minimum(np.maximum(probabilities, 1e-6), 1) ** (1 / np.asarray(temperature))
    return np.asarray(powered / powered.sum(axis=-1, keepdims=True), dtype=np.float32)


def consensus(together: np.ndarray, answers: np.ndarray, looked: np.ndarray) -> np.ndarray:
    """(N,) column of the configuration that is surest of the class several give together.

    Args:
        together: (N, classes) probabilities.
        answers: (N, looked, classes) calibrated probabilities of each.
        looked: (N, looked) or (looked,) their columns.

    >>> answers = np.array([[[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]])
    >>> consensus(answers.mean(axis=1), answers, np.array([3, 5, 7])).tolist()
    [3]
    >>> consensus(np.array([[0.4, 0.6]]), answers, np.array([3, 5, 7])).tolist()
    [7]
    """
    chosen = together.argmax(axis=1)
    first = answers[:, :, :1]
    same = (np.abs(answers - first) <= 1e-8 + 1e-5 * np.abs(first)).all(axis=2)  # np.isclose, which takes ten times as long
    agreeing = (answers.argmax(axis=2) == chosen[:, None]) & ~same
    rows = np.arange(len(answers))
    place = (answers[rows, :, chosen] + agreeing).argmax(axis=1)
    return np.asarray(looked[place] if looked.ndim == 1 else looked[rows, place])


def _true_loss(logs: np.ndarray, temperature: float, labels: np.ndarray) -> float:
    """Mean negative log likelihood of (N, classes) logits at a temperature."""
    total = 0.0
    for start in range(0, len(logs), ROWS):
        logits = logs[start : start + ROWS] / np.float32(temperature)
        peak = logits.max(axis=1)
        true = logits[np.arange(len(logits)), labels[start : start + ROWS]]
        logits -= peak[:, None]
        total += float((np.log(np.exp(logits, out=logits).sum(axis=1)) + peak - true).sum(dtype=np.float64))
    return total / len(logs)
