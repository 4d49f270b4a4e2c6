"""What decides the configuration of an image: a policy at one of its settings, or the request itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynamic.configuration import Configuration
from selector.policies.base import Policy
from selector.policies.choice import choose
from selector.policies.objectives import Objective, OperatingPoint

FORCED = "forced"
"""Stands for a policy's name where the request names the configuration."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the images of a request find their configurations.

    Attributes:
        policy: its name, or :data:`FORCED`.
        dial: the policy's setting (a threshold, a trade-off); None where it has none.
        configuration: the one to run, where it is forced; else None.

    Raises:
        ValueError: a configuration beside a policy, or none where it is forced.

    >>> Plan(policy="cascade", dial=0.8).label
    'cascade@0.8'
    """

    policy: str
    dial: float | None = None
    configuration: Configuration | None = None

    def __post_init__(self) -> None:
        if (self.policy == FORCED) != (self.configuration is not None):
            raise ValueError(f"a plan has a policy or a forced configuration, not {self.policy} and {self.configuration}")

    @property
    def label(self) -> str:
        """Name under which answers are stored and compared: the policy at its setting."""
        return self.policy if self.dial is None else f"{self.policy}@{self.dial:g}"


def operating_plan(policies: Mapping[str, Policy], name: str, objective: Objective) -> tuple[Plan, OperatingPoint | None]:
    """A policy at the operating point that serves an objective best.

    Args:
        policies: by name; ``default`` is the static network that the objective compares with.
        name: of the policy.
        objective: ``accuracy``, ``default_cost`` or ``efficiency``.

    Returns:
        The plan, and the accuracy and MACs expected of it; None where nobody measured them.
    """
    policy = policies[name]
    static = policies["default"].points_
    if not policy.points_ or not static:
        return Plan(policy=name), None
    point = policy.point(objective, static[0].accuracy, static[0].macs)
    return Plan(policy=name, dial=point.dial if point and policy.dials else None), point


def active_plan(policies: Mapping[str, Policy], wanted: str | None, objective: Objective) -> tuple[Plan, str]:
    """The plan of requests that name none, and why it is that.

    Args:
        policies: by name, ``default`` among them.
        wanted: name of the policy that the settings force; None for what serves the objective best by cross-validation: a
            learned policy that beats the default, or the default.
        objective: see :func:`operating_plan`.
    """
    if wanted is not None:
        return operating_plan(policies, wanted, objective)[0], f"{wanted}: SERVING_POLICY names it"
    choice = choose(policies.values(), objective)
    if choice is None:
        return Plan(policy="default"), "default: no policy was learned"
    return operating_plan(policies, choice.policy, objective)[0], choice.sentence
