"""Keeps policies from a ``stem`` that shows nothing: where the first dynamic layer reads the picture itself."""

from __future__ import annotations

from selector.observation.observations import Observations
from selector.policies.base import Policy


def without_empty_stem(policy: Policy, label: Observations) -> Policy:
    """The policy itself, or an unfitted one that asks for ``prefix`` where it would for a ``stem`` that costs nothing.

    Where the stem's own convolution is the first dynamic layer, what that reads is the picture: a mean and a deviation of
    each channel. What the second layer reads under the default (``prefix``) is what other networks' stems show. Policies of
    one's own are left alone.

    Args:
        policy: not yet fitted.
        label: images that it is to be fitted on, whose costs tell.
    """
    groups = policy.parameters().get("groups", ())
    if policy.source is not None or "stem" not in groups or label.costs.stem @ label.costs.macs > 0:
        return policy
    behind = tuple("prefix" if group == "stem" else group for group in groups)
    return type(policy)(**policy.parameters() | {"groups": behind})
