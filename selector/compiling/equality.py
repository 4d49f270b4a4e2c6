"""Whether a policy gives the same on two networks, or from a session and from what was seen before, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.session import CompiledSession
from selector.compiling.looking import BATCH, Seen
from selector.observation.answers import classes_of, probabilities_of
from selector.observation.images import LiveImages, RecordedImages
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.running import PolicyRun, run_policy

TOLERANCE = 1e-4
"""Largest difference of a probability that counts as rounding; two classes nearer than that are a tie."""

RARE = 1000
"""Of so many images one may go another way because rounding moved what its policy saw over a threshold."""


@dataclass(kw_only=True)
class Equality:
    """Counts over images of one policy at one setting.

    Attributes:
        images: compared.
        other_configuration: that another configuration answers, since a policy saw features or answers that rounding moved
            over a threshold; these images are in none of the counts below.
        other_class: that have another class though the two most probable ones are no tie.
        ties: that have another class of two that are as probable.
        other_macs: that were charged otherwise for an answer of the same configuration: the policy looked at others.
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
        """Whether classes are the same, probabilities within :data:`TOLERANCE`, and another way rare (:data:`RARE`)."""
        allowed = self.images // RARE
        rare = self.other_macs <= allowed and self.other_configuration + self.other_macs <= max(1, allowed)
        return rare and not self.other_class and self.probability < TOLERANCE

    def add(self, expected: PolicyRun, made: PolicyRun, probabilities: tuple[np.ndarray, np.ndarray]) -> None:
        """Count some images.

        Args:
            expected, made: what came of the policy on both.
            probabilities: of both, (N, classes) float32 of the configuration that each chose, unrounded.
        """
        same = expected.columns == made.columns
        ordered = np.sort(probabilities[0], axis=1)
        tie = ordered[:, -1] - ordered[:, -min(2, ordered.shape[1])] < TOLERANCE
        other = same & (expected.predicted != made.predicted)
        self.images += len(same)
        self.other_configuration += int((~same).sum())
        self.other_class += int((other & ~tie).sum())
        self.ties += int((other & tie).sum())
        self.other_macs += int((same & (np.abs(expected.macs - made.macs) >= 0.5)).sum())
        self.probability = max(self.probability, float(np.abs(probabilities[0] - probabilities[1])[same].max(initial=0.0)))


def total(equalities: Sequence[Equality]) -> dict[str, Any]:
    """Of all settings together, JSON-ready."""
    found: dict[str, Any] = {name: sum(getattr(e, name) for e in equalities) for name in vars(Equality())}
    largest = max((e.probability for e in equalities), default=0.0)
    return found | {"probability": largest, "holds": all(e.holds for e in equalities)}


def decide_recorded(policy: Policy, dial: float | None, seen: Seen) -> tuple[PolicyRun, np.ndarray]:
    """What comes of a policy on what was seen, and the (N, classes) float32 probabilities of what it chose."""
    made = run_policy(policy, RecordedImages(seen.observed), dial)
    return made, seen.probabilities[np.arange(len(made.columns)), made.columns]


def decide_live(
    policy: Policy, dial: float | None, network: CompiledNetwork, images: np.ndarray, observed: Observations
) -> tuple[PolicyRun, np.ndarray]:
    """The same from a session, which runs what the policy asks for and nothing else."""
    session = CompiledSession(network, images)
    live = LiveImages(session, images, observed.portfolio, network.default, observed.costs, observed.keys)
    columns = policy.decide(live, dial)
    logits = session.mixed([observed.portfolio[column] for column in columns])
    return PolicyRun(columns, classes_of(logits), session.macs + live.charged), probabilities_of(logits)


def live_as_seen(
    settings: Sequence[tuple[Policy, float | None]], network: CompiledNetwork, images: np.ndarray, seen: Seen
) -> dict[str, Any]:
    """Whether every policy decides live, :data:`BATCH` images at a time, as it does on what was seen of the same images.

    Args:
        settings: policies, each with a setting of its dial.
        network: that gave it.
        images: (N, C, H, W) float32.
        seen: of them.
    """
    found = []
    for policy, dial in settings:
        equality, (expected, answers) = Equality(), decide_recorded(policy, dial, seen)
        for start in range(0, len(images), BATCH):
            part = np.arange(start, min(start + BATCH, len(images)))
            made, live = decide_live(policy, dial, network, images[part], seen.observed.rows(part))
            here = PolicyRun(expected.columns[part], expected.predicted[part], expected.macs[part])
            equality.add(here, made, (answers[part], live))
        found.append(equality)
    return total(found)
