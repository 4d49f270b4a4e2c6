"""What the database holds, as plain data: answers, labels that came later, evaluations of labelled images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """The answer to one image.

    Attributes:
        id: that its label will name.
        network: the deployment's key.
        policy: the plan's label.
        configuration: id of the one that ran.
        predicted: class; -1 where the network's answer was not finite.
        macs: that were run, the selector's included.
    """

    id: str
    network: str
    policy: str
    configuration: str
    predicted: int
    macs: float


@dataclass(frozen=True, kw_only=True)
class LabelledAnswer:
    """An answer whose label came.

    Attributes:
        id: of the answer.
        policy: label of the plan that answered.
        predicted: class; -1 where the network's answer was not finite.
        macs: that were run, the selector's included.
        label: the true class.
    """

    id: str
    policy: str
    predicted: int
    macs: float
    label: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What every configuration makes of a labelled image.

    Attributes:
        id: of the answer.
        policy: label of the plan that answered.
        policy_right: whether its answer was right.
        policy_macs: that it ran.
        right: by configuration id, whether it is right.
        oracle_macs: of the oracle's choice.
    """

    id: str
    policy: str
    policy_right: bool
    policy_macs: float
    right: dict[str, bool]
    oracle_macs: float


@dataclass(frozen=True, kw_only=True)
class Shadowed:
    """An image that was answered twice.

    Attributes:
        policy, shadow: labels of the plans that answered.
        predicted, shadow_predicted: classes; -1 where the network's answer was not finite.
        macs, shadow_macs: that each ran, the selector's included.
        label: the true class; None where it is not known.
    """

    policy: str
    shadow: str
    predicted: int
    shadow_predicted: int
    macs: float
    shadow_macs: float
    label: int | None
