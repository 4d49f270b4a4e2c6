"""Observations made up from a known rule: what a policy can find in them is known too."""

from __future__ import annotations

import numpy as np
import pytest

import dynamic
from dynamic import Configuration
from oracle.run_record import Digests
from selector.observation.costs import Costs
from selector.observation.observations import Observations

CLASSES = 5
DIGESTS = Digests(weights="made", statistics="up")


@pytest.fixture(scope="session")
def network() -> dynamic.DynamicNetwork:
    return dynamic.load("resnet50-slim")


@pytest.fixture(scope="session")
def portfolio(network: dynamic.DynamicNetwork) -> list[Configuration]:
    """Four configurations of falling cost that differ from layer A on."""
    strides = [(1, 2, 2, 2), (1, 3, 2, 2), (2, 2, 2, 2), (3, 2, 2, 2)]
    return [Configuration(stride, (1, 1, 1, 1), (3, 3, 3, 3)) for stride in strides]


def made_up(
    network: dynamic.DynamicNetwork,
    portfolio: list[Configuration],
    right: np.ndarray,
    signal: np.ndarray,
    split: str = "label",
    seed: int = 0,
    sure: bool = True,
) -> Observations:
    """Observations in which configuration k is right on image i where ``right[i, k]``.

    Args:
        network, portfolio: for the costs.
        right: (N, K) bool.
        signal: (N,) written into every group of features and every stage, amid noise.
        split: of all images.
        seed: of labels and noise.
        sure: whether an answer that is right is surer than one that is wrong.
    """
    stream = np.random.default_rng(seed)
    count, columns = right.shape
    labels = stream.integers(CLASSES, size=count)
    wrong = (labels[:, None] + stream.integers(1, CLASSES, size=right.shape)) % CLASSES
    predicted = np.where(right, labels[:, None], wrong)
    top = np.where(right & sure, 0.9, 0.3 + 0.1 * stream.random(right.shape))
    probabilities = np.repeat(((1 - top) / (CLASSES - 1))[:, :, None], CLASSES, axis=2)
    np.put_along_axis(probabilities, predicted[:, :, None], top[:, :, None], axis=2)

    def features(width: int) -> np.ndarray:
        values = stream.normal(size=(count, width)).astype(np.float32)
        values[:, 0] = signal
        return values

    grid = stream.normal(size=(count, 4, 6, 6)).astype(np.float32) * 0.1 + signal[:, None, None, None].astype(np.float32)
    names = tuple(tuple(f"stage_{layer}_{column}" for column in range(columns)) for layer in range(4))
    return Observations(
        keys=np.array([f"{split}/{seed}-{row:05d}" for row in range(count)]),
        splits=np.full(count, split),
        labels=labels,
        sides=np.exp(signal).astype(np.float32),
        portfolio=tuple(portfolio),
        default=0,
        digests=DIGESTS,
        costs=Costs(network, portfolio, 96),
        image=features(31),
        stem=features(6),
        prefix=features(10),
        grid=grid,
        stages=names,
        stage_values={name: features(5) for layer in names for name in layer},
        probabilities=probabilities.astype(np.float32),
        predicted=predicted.astype(np.int32),
        p_true=probabilities[np.arange(count), :, labels].astype(np.float32),
    )


@pytest.fixture(scope="session")
def ruled(network: dynamic.DynamicNetwork, portfolio: list[Configuration]) -> tuple[Observations, Observations]:
    """Label and test images on which the one right configuration is a function of a feature."""
    return tuple(_ruled(network, portfolio, split, seed) for split, seed in (("label", 1), ("test", 2)))  # type: ignore[return-value]


def _ruled(network: dynamic.DynamicNetwork, portfolio: list[Configuration], split: str, seed: int) -> Observations:
    signal = np.random.default_rng(seed + 10).uniform(-2, 2, size=1200)
    best = np.clip(np.floor(signal + 2), 0, 3).astype(int)
    return made_up(network, portfolio, best[:, None] == np.arange(4), signal, split, seed)


@pytest.fixture(scope="session")
def noise(network: dynamic.DynamicNetwork, portfolio: list[Configuration]) -> tuple[Observations, Observations]:
    """Label and test images on which which configuration is right cannot be told from anything, not even its answer."""
    found = []
    for split, seed in (("label", 3), ("test", 4)):
        stream = np.random.default_rng(seed)
        right = stream.random((1200, 4)) < np.array([0.7, 0.68, 0.6, 0.5])
        found.append(made_up(network, portfolio, right, stream.uniform(-2, 2, size=1200), split, seed, sure=False))
    return found[0], found[1]
