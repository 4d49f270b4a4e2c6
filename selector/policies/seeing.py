"""What policies look at where a network's first dynamic layer reads the picture itself."""

from __future__ import annotations

from selector.observation.observations import Observations
from selector.policies.base import Policy


def looking_behind_the_picture(policy: Policy, label: Observations) -> Policy:
    """The policy itself, or one that looks at ``prefix`` where it would at a ``stem`` that is nothing but the picture.

    That is where the first dynamic layer reads it, as a stem's own convolution does: a stem that costs nothing shows a few
    numbers, and what the second layer reads under the default is what other networks' stems show.
    """
    groups = policy.parameters().get("groups", ())
    if policy.source is not None or "stem" not in groups or label.costs.stem @ label.costs.macs > 0:
        return policy
    behind = tuple("prefix" if group == "stem" else group for group in groups)
    return type(policy)(**policy.parameters() | {"groups": behind})
