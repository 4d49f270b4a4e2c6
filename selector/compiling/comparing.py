"""Each policy in a precision beside the same in float32, on the test images: accuracy, cost, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selector.policies.base import Policy
from selector.policies.objectives import OBJECTIVES, Objective
from selector.policies.running import PolicyRun
from selector.scoring.resampling import draw_resamples, percentile_interval, resampled_means
from selector.scoring.tables import difference_text


def settings_of(policies: Sequence[Policy]) -> list[tuple[Policy, Objective | None, float | None]]:
    """Each policy at the setting that serves each objective best by the label split; one without a dial once."""
    default = next(policy for policy in policies if policy.name == "default").points_[0]
    found: list[tuple[Policy, Objective | None, float | None]] = []
    for policy in policies:
        for objective in OBJECTIVES if policy.dials else (None,):
            point = policy.point(objective or "accuracy", default.accuracy, default.macs)
            found.append((policy, objective, point.dial if point and policy.dials else None))
    return found


def row_of(
    setting: tuple[Policy, Objective | None, float | None],
    made: PolicyRun,
    float32: PolicyRun,
    labels: np.ndarray,
    draws: np.ndarray,
) -> dict[str, Any]:
    """A policy at one setting, JSON-ready.

    Args:
        setting: the policy in the precision, its objective and dial.
        made: what came of it.
        float32: what came of the same policy for the same objective in float32, on the same images.
        labels: (N,) their classes.
        draws: see :func:`selector.scoring.resampling.draw_resamples`.
    """
    policy, objective, dial = setting
    right, base = made.predicted == labels, float32.predicted == labels
    differences = resampled_means(right.astype(float) - base.astype(float), draws)
    return {
        "policy": policy.name,
        "objective": objective,
        "dial": dial,
        "accuracy": float(right.mean()),
        "gmacs": float(made.macs.mean() / 1e9),
        "float32": {"accuracy": float(base.mean()), "gmacs": float(float32.macs.mean() / 1e9)},
        "versus_float32": {
            "value": float(right.mean() - base.mean()),
            "interval": list(percentile_interval(differences)),
        },
    }


def rows_of(
    settings: Sequence[tuple[Policy, Objective | None, float | None]],
    made: Sequence[PolicyRun],
    float32: Sequence[PolicyRun],
    labels: np.ndarray,
) -> list[dict[str, Any]]:
    """:func:`row_of` all settings."""
    draws = draw_resamples(len(labels))
    return [row_of(s, m, f, labels, draws) for s, m, f in zip(settings, made, float32, strict=True)]


def joined_runs(parts: Sequence[PolicyRun]) -> PolicyRun:
    """What came of a policy in several batches."""
    return PolicyRun(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("columns", "predicted", "macs")))


def table(reports: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every policy and objective, in float32 and in each precision that there is a report of.

    Args:
        reports: by precision; "float32" may be missing, since every report has the policies in float32 beside.
    """
    others = [name for name in reports if name != "float32"]
    header = ["policy", "objective", "float32", "MMACs"]
    for name in others:
        header += [name, "MMACs", f"{name} - float32"]
    by_key: dict[tuple[str, str | None], dict[str, Any]] = {}
    for name, report in reports.items():
        for row in report["rows"]:
            by_key.setdefault((row["policy"], row["objective"]), {})[name] = row
    lines = []
    for (policy, objective), found in by_key.items():
        base = found["float32"] if "float32" in found else next(iter(found.values()))["float32"]
        cells = [policy, (objective or "").replace("_", " "), f"{base['accuracy']:.1%}", f"{1000 * base['gmacs']:.1f}"]
        for name in others:
            row = found.get(name)
            cells += (
                [f"{row['accuracy']:.1%}", f"{1000 * row['gmacs']:.1f}", difference_text(row["versus_float32"])]
                if row
                else ["", "", ""]
            )
        lines.append(cells)
    return header, lines
