"""Answer a batch whose images ask for different policies and configurations: one session, nothing run twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamic.configuration import Configuration
from selector.observation.answers import probabilities_of
from selector.observation.images import LiveImages
from serving.inference.deployment import Deployment
from serving.inference.plans import Plan
from serving.inference.served_network import ServedNetwork


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What came of one image.

    Attributes:
        probabilities: (classes,) float32, unrounded; all zeros where the network's answer was not finite.
        configuration: whose answer it is.
        macs: everything that was run for it, the selector's own arithmetic included; one multiply-add counts as 1.
        selector_macs: of these, what the answer itself did not need.
    """

    probabilities: np.ndarray
    configuration: Configuration
    macs: float
    selector_macs: float

    @property
    def predicted(self) -> int:
        """The most probable class, the first of equal ones; -1 where the network's answer was not finite."""
        return int(self.probabilities.argmax()) if self.probabilities.any() else -1


def answer(deployment: Deployment, images: np.ndarray, plans: Sequence[Plan]) -> list[ImageResult]:
    """Let each image's policy choose, then run what was chosen, images with a common prefix of options together.

    Args:
        deployment: the network and its policies.
        images: (N, C, resolution, resolution) float32, normalised.
        plans: one for each image.

    Returns:
        One result for each image, in their order.
    """
    if all(plan.configuration is None for plan in plans):
        return _run(deployment, deployment.network, images, plans)
    networks = [
        deployment.network if plan.configuration is None else deployment.network_of(plan.configuration) for plan in plans
    ]
    if all(network is deployment.network for network in networks):
        return _run(deployment, deployment.network, images, plans)
    results: dict[int, ImageResult] = {}
    for network in dict.fromkeys(networks):
        rows = [row for row, other in enumerate(networks) if other is network]
        found = _run(deployment, network, images[rows], [plans[row] for row in rows])
        results.update(zip(rows, found, strict=True))
    return [results[row] for row in range(len(plans))]


def _run(deployment: Deployment, network: ServedNetwork, images: np.ndarray, plans: Sequence[Plan]) -> list[ImageResult]:
    session, seen = network.session(images), network.seen(images)
    chosen: list[Configuration] = [deployment.default] * len(plans)
    charged = np.zeros(len(plans))
    groups: dict[Plan, list[int]] = {}
    for row, plan in enumerate(plans):
        groups.setdefault(plan, []).append(row)
    for plan, members in groups.items():
        rows = np.array(members)
        if plan.configuration is not None:
            columns = [plan.configuration] * len(rows)
        else:
            live = LiveImages(session, seen, deployment.portfolio, deployment.default, deployment.costs, rows=rows)
            decided = deployment.policies[plan.policy].decide(live, plan.dial)
            columns = [deployment.portfolio[column] for column in decided]
            charged[rows] = live.charged
        for row, configuration in zip(rows, columns, strict=True):
            chosen[row] = configuration
    probabilities = probabilities_of(session.mixed(chosen))
    macs = session.macs + charged
    own = {configuration: network.macs(configuration) for configuration in set(chosen)}
    return [
        ImageResult(
            probabilities=probabilities[row],
            configuration=configuration,
            macs=float(macs[row]),
            selector_macs=float(macs[row] - own[configuration]),
        )
        for row, configuration in enumerate(chosen)
    ]
