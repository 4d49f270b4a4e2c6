"""Answers of several configurations together: calibrated by temperature, and named by one configuration that agrees."""

from __future__ import annotations

import numpy as np

from selector.observation.observations import Observations

_TRIED = np.geomspace(0.5, 4, 25)


def fit_temperatures(observed: Observations) -> np.ndarray:
    """(K,) float32: by what to divide each configuration's logits so that the label images are likeliest."""
    logs = np.log(np.clip(observed.probabilities, 1e-6, 1))
    losses = np.array([_true_loss(logs / temperature, observed.labels) for temperature in _TRIED])
    return _TRIED[losses.argmin(axis=0)].astype(np.float32)


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
    sure = np.take_along_axis(answers, chosen[:, None, None], axis=2)[:, :, 0]
    place = (sure + agreeing).argmax(axis=1)
    columns = np.broadcast_to(looked, agreeing.shape)
    return np.take_along_axis(columns, place[:, None], axis=1)[:, 0]


def _true_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K,) mean negative log likelihood of (N, K, classes) logits."""
    peak = logits.max(axis=2, keepdims=True)
    normaliser = np.log(np.exp(logits - peak).sum(axis=2)) + peak[:, :, 0]
    true = np.take_along_axis(logits, labels[:, None, None], axis=2)[:, :, 0]
    return np.asarray((normaliser - true).mean(axis=0))
