"""Whether a compiled network in float32 gives what the eager one does, policy by policy, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.session import CompiledSession
from selector.observation.answers import classes_of, probabilities_of
from selector.observation.images import LiveImages, RecordedImages
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.running import PolicyRun, run_policy

TOLERANCE = 1e-4
"""Largest difference of a probability that counts as rounding; two classes nearer than that are a tie."""


@dataclass(kw_only=True)
class Equality:
    """Counts over images of one policy at one setting.

    Attributes:
        images: compared.
        other_configuration: that another configuration answers, since a policy saw features or answers that rounding moved
            over a threshold; these images are in none of the counts below.
        other_class: that have another class though the two most probable ones are no tie.
        ties: that have another class of two that are as probable.
        other_macs: that were charged otherwise.
        probability: largest difference of a probability.
    """

    images: int = 0
    other_configuration: int = 0
    other_class: int = 0
    ties: int = 0
    other_macs: int = 0
    probability: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every image has the same class, charge and, within :data:`TOLERANCE`, probabilities."""
        return not self.other_class and not self.other_macs and self.probability < TOLERANCE

    def add(self, eager: PolicyRun, compiled: PolicyRun, expected: np.ndarray, made: np.ndarray) -> None:
        """Count a batch.

        Args:
            eager, compiled: what came of the policy on both.
            expected, made: (N, classes) float32 probabilities of the configuration that each chose, unrounded.
        """
        same = eager.columns == compiled.columns
        ordered = np.sort(expected, axis=1)
        tie = ordered[:, -1] - ordered[:, -min(2, ordered.shape[1])] < TOLERANCE
        other = same & (eager.predicted != compiled.predicted)
        self.images += len(same)
        self.other_configuration += int((~same).sum())
        self.other_class += int((other & ~tie).sum())
        self.ties += int((other & tie).sum())
        self.other_macs += int((same & (np.abs(eager.macs - compiled.macs) >= 0.5)).sum())
        self.probability = max(self.probability, float(np.abs(expected - made)[same].max(initial=0.0)))


@dataclass(kw_only=True)
class Comparison:
    """Both networks on the same images.

    Attributes:
        settings: (policy, setting of its dial) that are compared.
        equality: by setting's position.
        compiled, eager: what came of each, by batch.
    """

    settings: Sequence[tuple[Policy, float | None]]
    equality: list[Equality] = field(default_factory=list)
    compiled: list[list[PolicyRun]] = field(default_factory=list)
    eager: list[list[PolicyRun]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for made in (self.compiled, self.eager):
            made.extend([] for _ in self.settings)
        self.equality.extend(Equality() for _ in self.settings)

    def add(self, network: CompiledNetwork, images: np.ndarray, observed: Observations, probabilities: np.ndarray) -> None:
        """Let every policy decide on a batch, live on the compiled network and from what the eager one gave.

        Args:
            network: the compiled one.
            images: (N, C, H, W) float32.
            observed: what the eager one gave of them.
            probabilities: (N, K, classes) the same, unrounded.
        """
        for position, (policy, dial) in enumerate(self.settings):
            eager = run_policy(policy, RecordedImages(observed), dial)
            made, compiled = decide_live(policy, dial, network, images, observed)
            expected = probabilities[np.arange(len(images)), eager.columns]
            self.equality[position].add(eager, compiled, expected, made)
            self.eager[position].append(eager)
            self.compiled[position].append(compiled)

    def summary(self) -> dict[str, Any]:
        """All settings together, JSON-ready."""
        total = {name: sum(getattr(e, name) for e in self.equality) for name in vars(Equality())}
        return total | {"probability": max((e.probability for e in self.equality), default=0.0)}


def decide_live(
    policy: Policy, dial: float | None, network: CompiledNetwork, images: np.ndarray, observed: Observations
) -> tuple[np.ndarray, PolicyRun]:
    """(N, classes) float32 probabilities of what a policy chose on a compiled network, and what came of it."""
    session = CompiledSession(network, images)
    live = LiveImages(session, images, observed.portfolio, network.default, observed.costs, observed.keys)
    columns = policy.decide(live, dial)
    logits = session.mixed([observed.portfolio[column] for column in columns])
    return probabilities_of(logits), PolicyRun(columns, classes_of(logits), session.macs + live.charged)
