"""The ranking: a row for each policy and objective on the test split, against single best (SBS) and oracle (VBS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamic.errors import UserError
from oracle.evaluation.paired import holm
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.choice import Choice, choose_among
from selector.policies.constant import Oracle
from selector.policies.objectives import OBJECTIVES, Objective, OperatingPoint, Terms
from selector.policies.own import own_errors
from selector.policies.peeking import refuse_peeking
from selector.policies.running import PolicyRun, PolicyRuns, run_policy
from selector.scoring.metrics import References, measure
from selector.scoring.promises import kept
from selector.scoring.rivals import StaticNetwork, versus_static


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What came of every policy on one split.

    Attributes:
        rows: a JSON-ready dict for each policy and objective, the references first; see :func:`rank`.
        outcomes: by the name of a row.
        references: what the rows are measured against.
    """

    rows: list[dict[str, Any]]
    outcomes: Mapping[str, PolicyRun]
    references: References


def refuse_overlap(policy: Policy, keys: np.ndarray) -> None:
    """Raise UserError where a policy was fitted on images, by their (N,) keys, that it would be scored on."""
    shared = sorted(policy.fitted_on_.intersection(map(str, keys)))
    if shared:
        raise UserError(
            f"{policy.name} was fitted on {len(shared)} of the images it would be scored on, such as {shared[0]}: "
            "fit it on the label split (python -m selector.train RUN)"
        )


def rank(
    policies: Sequence[Policy], label: Observations, runs: PolicyRuns, networks: Sequence[StaticNetwork] = ()
) -> Ranking:
    """Score every policy once for each objective; a policy without a dial once.

    A row has what :func:`selector.scoring.metrics.measure` finds, its ``name``, ``policy``, ``objective``, ``learned`` and
    ``dial``; ``expected``, what the label split promised, and ``guarantee``, whether it was kept; ``versus_static``, see
    :func:`selector.scoring.rivals.versus_static`. This, ``versus_default`` and ``versus_single_best`` of the rows of learned
    policies have ``p_holm``, McNemar's p adjusted for the number of these rows; it is None in the others.

    Args:
        policies: fitted, with operating points; ``default`` and ``single_best`` among them.
        label: their images.
        runs: on the test images, which are scored on.
        networks: other networks on these images.

    Raises:
        UserError: a policy was fitted on a test image.
    """
    test = runs.observed
    for policy in policies:
        refuse_overlap(policy, test.keys)
        with own_errors(policy):
            refuse_peeking(policy, test)
    by_name = {policy.name: policy for policy in policies}
    oracle = Oracle().fit(label).reveal(test)
    single_best = int(by_name["single_best"].decide(RecordedImages(test))[0])
    references = References.of(test, single_best, run_policy(oracle, RecordedImages(test)))
    promised = by_name["default"].points_[0]  # on the images that nothing was chosen on, as the service has it
    static = promised.accuracy, promised.macs
    rows, outcomes = [], {}
    for policy in [*(p for p in policies if not p.learned), oracle, *(p for p in policies if p.learned)]:
        objectives: Sequence[Objective | None] = OBJECTIVES if policy.dials else (None,)
        points = [policy.point(objective or "accuracy", *static) for objective in objectives]
        dials = list(dict.fromkeys(point.dial if point else None for point in points))
        with own_errors(policy):
            found = dict(zip(dials, runs.at(policy, dials), strict=True))
        for objective, point in zip(objectives, points, strict=True):
            name = f"{policy.name}/{objective}" if objective else policy.name
            outcomes[name] = found[point.dial if point else None]
            row: dict[str, Any] = {
                "name": name,
                "policy": policy.name,
                "objective": objective,
                "learned": policy.learned,
                "dial": point.dial if point else None,
                "expected": _expected(point) if point else None,
            }
            row |= measure(outcomes[name], test, references)
            row["versus_static"] = versus_static(outcomes[name], label, test, references, networks)
            rows.append(row | {"guarantee": kept(point.guaranteed if point else None, row["versus_default"])})
    _adjust(rows)
    return Ranking(rows=rows, outcomes=outcomes, references=references)


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Add ``p_holm``: the family is the table's learned rows, for each of the three comparisons."""
    learned = [row for row in rows if row["learned"]]
    for comparison in ("versus_default", "versus_single_best", "versus_static"):
        for row in rows:
            row[comparison]["p_holm"] = None
        adjusted = holm([row[comparison]["p"] for row in learned])
        for row, p in zip(learned, adjusted, strict=True):
            row[comparison]["p_holm"] = p


def _expected(point: OperatingPoint) -> dict[str, float]:
    """What the label split promised, JSON-ready; what is guaranteed only where it was noted."""
    known = {} if point.guaranteed is None else {"guaranteed": point.guaranteed}
    return {"accuracy": point.accuracy, "gmacs": point.macs / 1e9} | known


def recommended(
    rows: Sequence[dict[str, Any]], objective: Objective, default: dict[str, Any], run: Mapping[str, Any]
) -> tuple[dict[str, Any], Choice]:
    """Of the default and one objective's rows the one with the best expectation, estimated on the label split alone.

    Args:
        rows: of learned policies; those without an expectation and of other objectives do not count.
        objective: see :data:`selector.policies.objectives.Objective`.
        default: the default's row.
        run: ``promised_on``, the label images that the expectations were estimated on (``label_images`` unless it says so),
            and ``terms`` of what they guarantee, where it does.

    Returns:
        The row, and why; see :class:`selector.policies.choice.Choice`.

    >>> rows = [
    ...     {"policy": name, "objective": "efficiency", "dial": 0.0, "expected": {"accuracy": a, "gmacs": g}}
    ...     for name, a, g in (("head", 0.9, 3.0), ("cascade", 0.8, 1.0))
    ... ]
    >>> default = {"policy": "default", "expected": {"accuracy": 0.8, "gmacs": 2.0}}
    >>> recommended(rows, "efficiency", default, {"label_images": 1000})[0]["policy"]
    'cascade'
    >>> recommended(rows[:1], "efficiency", default, {"label_images": 1000})[0]["policy"]
    'default'
    """
    wanted = {row["policy"]: row for row in rows if row["objective"] in (objective, None) and row["expected"]}
    offers = {name: _point(row) for name, row in wanted.items()}
    terms = Terms(**run["terms"]) if run.get("terms") else None
    promised = run.get("promised_on", run["label_images"])
    share = promised / run.get("fitted_on", promised)
    choice = choose_among(offers, objective, _point(default), promised, terms, share)
    return wanted[choice.policy] if choice.helps else default, choice


def _point(row: dict[str, Any]) -> OperatingPoint:
    expected = row["expected"]
    return OperatingPoint(row.get("dial") or 0.0, expected["accuracy"], 1e9 * expected["gmacs"], expected.get("guaranteed"))
