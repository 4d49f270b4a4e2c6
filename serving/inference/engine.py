"""Answer a batch whose images ask for different policies and configurations: one session, nothing run twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamic.configuration import Configuration
from dynamic.session import Session
from selector.observation.images import Live, answered
from serving.inference.deployment import FORCED, Plan, Served


@dataclass(frozen=True)
class Answered:
    """What came of one image.

    Attributes:
        probabilities: (classes,) float32; all zeros where the network's answer was not finite.
        configuration: whose answer it is.
        macs: everything that was run for it, the selector's own arithmetic included.
        selecting: of these, what the answer itself did not need.
    """

    probabilities: np.ndarray
    configuration: Configuration
    macs: float
    selecting: float


@torch.inference_mode()
def answer(served: Served, images: Tensor, plans: Sequence[Plan]) -> list[Answered]:
    """Let each image's policy choose, then run what was chosen, images with a common prefix of options together.

    Args:
        served: the network and its policies.
        images: (N, 3, H, W) float32, normalised.
        plans: one an image.
    """
    images = images.to(served.device, served.dtype, memory_format=torch.channels_last)
    session = Session(served.network, images)
    chosen: list[Configuration] = [served.default] * len(plans)
    charged = np.zeros(len(plans))
    for plan in dict.fromkeys(plans):
        rows = np.array([row for row, other in enumerate(plans) if other == plan])
        if plan.policy == FORCED:
            assert plan.configuration is not None
            columns = [plan.configuration] * len(rows)
        else:
            part = images if len(rows) == len(plans) else images[torch.from_numpy(rows).to(images.device)]
            live = Live(served.network, part, served.portfolio, served.costs, session=session, rows=rows)
            decided = served.policies[plan.policy].decide(live, plan.dial)
            columns = [served.portfolio[column] for column in decided]
            charged[rows] = live.charged
        for row, configuration in zip(rows, columns, strict=True):
            chosen[row] = configuration
    probabilities = answered(session.mixed(chosen))
    macs = session.macs + charged
    own = {c: served.macs(c) for c in set(chosen)}
    return [
        Answered(probabilities[row], configuration, float(macs[row]), float(macs[row] - own[configuration]))
        for row, configuration in enumerate(chosen)
    ]
