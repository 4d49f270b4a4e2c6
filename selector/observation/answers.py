"""Logits to what policies and clients see of them."""

from __future__ import annotations

import numpy as np


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """(N, classes) float32 probabilities, all zeros where a logit is not finite.

    >>> probabilities_of(np.array([[0.0, 0.0], [np.inf, 0.0]], np.float32)).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    finite = np.isfinite(logits)
    if finite.all():
        return _softmax(logits)
    rows = finite.all(axis=1, keepdims=True)
    return np.where(rows, _softmax(np.where(rows, logits, 0)), np.float32(0))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float32)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def classes_of(logits: np.ndarray) -> np.ndarray:
    """(N,) int32 predicted classes, the first of equal ones; -1 where a logit is not finite.

    >>> classes_of(np.array([[0.0, 1.0], [np.nan, 0.0]], np.float32)).tolist()
    [1, -1]
    """
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1).astype(np.int32)
