"""Which policy serves an objective: among the default and the learned ones, by what each promises on label images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from selector.policies.base import Policy
from selector.policies.objectives import TERMS, Objective, OperatingPoint, Terms, beats, best, labels_needed

DEFAULT = "default"

MANY = 1_000_000
"""Label images beyond which their number says nothing: what came nearest is estimated to be as good as the default."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for an objective, and what was not.

    Attributes:
        objective: in whose terms.
        policy: the learned policy that beats the default, or ``default`` where none does.
        point: its operating point.
        default: what the default promises.
        nearest: the learned policy that came nearest, with its point; the chosen one where one was. None without any.
        labels: images that the promises were estimated on.
        share: of all label images, these: others may have chosen the configurations.
        terms: of the guarantee; None where none was given, as in runs of earlier versions.
    """

    objective: Objective
    policy: str
    point: OperatingPoint
    default: OperatingPoint
    nearest: tuple[str, OperatingPoint] | None
    labels: int
    terms: Terms | None = None
    share: float = 1.0

    @property
    def helps(self) -> bool:
        """Whether a learned policy is better than the default."""
        return self.policy != DEFAULT

    @property
    def needed(self) -> int | None:
        """Label images that it would take to tell; see :func:`selector.policies.objectives.labels_needed`."""
        if self.helps or self.nearest is None:
            return None
        promised = labels_needed(self.nearest[1], self.default, self.objective, self.labels, _tolerance(self.terms))
        return None if promised is None else round(promised / self.share)

    @property
    def sentence(self) -> str:
        """What was chosen and why, with the numbers."""
        if self.nearest is None:
            return "default: there is no learned policy"
        name, point = self.nearest
        promise = (
            f"{point.accuracy:.1%} at {point.macs / 1e6:.1f} MMACs ({point.macs / self.default.macs:.0%} of the default's) "
            f"where the default has {self.default.accuracy:.1%} at {self.default.macs / 1e6:.1f}, "
            f"by cross-validation on {self.labels} label images"
        )
        if self.helps:
            return f"{name}: expected to reach {promise}" + (f", {self.guarantee}" if self.guarantee else "")
        return f"default: no policy helps here; the nearest, {name}, is expected to reach {promise}{self._unclear}"

    @property
    def guarantee(self) -> str:
        """What is guaranteed of what was chosen, or would be of what came nearest; empty where nothing was noted."""
        if self.nearest is None or self.terms is None or self.nearest[1].guaranteed is None:
            return ""
        least = 100 * self.nearest[1].guaranteed
        said = f"at least {least:.1f} points better than" if least > 0 else f"at most {-least:.1f} points below"
        return f"{said} the default with {self.terms.confidence:.0%} confidence"

    @property
    def _unclear(self) -> str:
        """Whether more labels would tell, and how many."""
        if not self.guarantee or self.needed is None:
            return f", {self.guarantee}" if self.guarantee else ""
        tells = f"about {self.needed} would tell" if self.needed <= MANY else "not even a million would tell"
        return f", but these guarantee only {self.guarantee}; {tells}"


def _tolerance(terms: Terms | None) -> float:
    return (terms or TERMS).tolerance


def choose(policies: Iterable[Policy], objective: Objective) -> Choice | None:
    """The policy to run for an objective; None where nobody estimated the default's accuracy.

    Args:
        policies: fitted; ``default`` among them.
        objective: see :data:`selector.policies.objectives.Objective`.
    """
    policies = list(policies)
    static = next(policy for policy in policies if policy.name == DEFAULT)
    if not static.points_:
        return None
    default = static.points_[0]
    offers = {p.name: p.point(objective, default.accuracy, default.macs) for p in policies if p.learned}
    share = static.promised_on_ / max(static.labels_, 1)
    wanted = {k: v for k, v in offers.items() if v}
    return choose_among(wanted, objective, default, static.promised_on_, static.terms_, share)


def choose_among(
    offers: Mapping[str, OperatingPoint],
    objective: Objective,
    default: OperatingPoint,
    labels: int,
    terms: Terms | None = None,
    share: float = 1.0,
) -> Choice:
    """The same from the point of each learned policy; see :class:`Choice`.

    >>> offers = {"cascade": OperatingPoint(0.5, 0.395, 157e6)}
    >>> print(choose_among(offers, "efficiency", OperatingPoint(0.0, 0.42, 148e6), 400).sentence)
    default: no policy helps here; the nearest, cascade, is expected to reach 39.5% at 157.0 MMACs (106% of the default's)
    where the default has 42.0% at 148.0, by cross-validation on 400 label images
    """
    tolerance = _tolerance(terms)
    point = best(list(offers.values()), objective, default, tolerance)
    if point is None:
        kept = Choice(objective=objective, policy=DEFAULT, point=default, default=default, nearest=None, labels=labels)
        return replace(kept, terms=terms, share=share)
    nearest = next(name for name, offer in offers.items() if offer is point)
    helps = beats(point, default, objective, tolerance)
    return Choice(
        objective=objective,
        policy=nearest if helps else DEFAULT,
        point=point if helps else default,
        default=default,
        nearest=(nearest, point),
        labels=labels,
        terms=terms,
        share=share,
    )
