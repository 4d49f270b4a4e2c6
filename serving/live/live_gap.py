"""The live gap: how far the policies are from the oracle on labelled live traffic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oracle.evaluation import bounds
from oracle.evaluation.bounds import paired_interval
from selector.scoring.gaps import closed_gap, closed_gap_interval
from selector.scoring.resampling import RESAMPLES
from serving.inference.deployment import Deployment
from serving.live.records import Evaluation, LabelledAnswer, Shadowed
from serving.live.store import Store
from serving.operation import metrics

MOST = 2000
"""Latest labels and evaluations that the live gap is computed from."""


def live_gap(deployment: Deployment, store: Store) -> dict[str, Any]:
    """What the latest labels and evaluations say of live traffic, by policy and its setting, JSON-ready.

    Accuracies carry 95 % intervals (Wilson's); gaps those of a paired bootstrap. Images of each policy are compared among
    themselves: the same images under default, single best, the policy and the oracle. What a shadow answered too stands
    beside the active policy's answers to the same images, the difference with Agresti and Min's paired interval.
    """
    key = deployment.key
    labels, evaluations = store.labels(key, MOST), store.evaluations(key, MOST)
    labelled, evaluated = store.counts(key)
    names = sorted({row.policy for row in labels})
    return {
        "labelled": labelled,
        "evaluated": evaluated,
        "latest": MOST,
        "answered": [_answers_of(name, [row for row in labels if row.policy == name]) for name in names],
        "shadowed": _shadowed(store.shadowed(key, MOST, labelled=False), store.shadowed(key, MOST, labelled=True)),
        "compared": [_compare(deployment, name, [e for e in evaluations if e.policy == name]) for name in names],
    }


def _answers_of(policy: str, rows: Sequence[LabelledAnswer]) -> dict[str, Any]:
    right = np.array([row.predicted == row.label for row in rows])
    macs = float(np.mean([row.macs for row in rows]))
    return {"policy": policy, "images": len(rows), "gmacs": macs / 1e9} | _accuracy(right)


def _accuracy(right: np.ndarray) -> dict[str, Any]:
    return {"accuracy": float(right.mean()), "accuracy_ci": list(bounds.interval(right))}


def _shadowed(every: Sequence[Shadowed], labelled: Sequence[Shadowed]) -> list[dict[str, Any]]:
    """Active and shadow policy on the same images: agreement and cost on all, accuracy on the labelled ones."""
    return [
        _beside(
            *pair,
            [row for row in every if (row.policy, row.shadow) == pair],
            [row for row in labelled if (row.policy, row.shadow) == pair],
        )
        for pair in sorted({(row.policy, row.shadow) for row in (*every, *labelled)})
    ]


def _beside(policy: str, shadow: str, every: Sequence[Shadowed], labelled: Sequence[Shadowed]) -> dict[str, Any]:
    rows = every or labelled
    found: dict[str, Any] = {
        "policy": policy,
        "shadow": shadow,
        "images": len(rows),
        "agreement": float(np.mean([row.predicted == row.shadow_predicted for row in rows])),
        "gmacs": {
            "policy": float(np.mean([row.macs for row in rows])) / 1e9,
            "shadow": float(np.mean([row.shadow_macs for row in rows])) / 1e9,
        },
        "labelled": len(labelled),
        "cases": None,
        "difference": None,
        "difference_ci": None,
    }
    if labelled:
        right = np.array([row.predicted == row.label for row in labelled])
        shadow_right = np.array([row.shadow_predicted == row.label for row in labelled])
        found["cases"] = {"policy": _accuracy(right), "shadow": _accuracy(shadow_right)}
        found["difference"] = float(shadow_right.mean() - right.mean())
        found["difference_ci"] = list(paired_interval(shadow_right, right))
    return found


def _compare(deployment: Deployment, policy: str, rows: Sequence[Evaluation]) -> dict[str, Any]:
    found: dict[str, Any] = {"policy": policy, "images": len(rows)}
    if not rows:
        return found
    best = deployment.policies.get("single_best")
    best_configuration = deployment.portfolio[best.column_] if best is not None else None  # type: ignore[attr-defined]
    right = {
        "default": np.array([row.right[deployment.default.id] for row in rows]),
        "policy": np.array([row.policy_right for row in rows]),
        "oracle": np.array([any(row.right.values()) for row in rows]),
    }
    gmacs = {
        "default": deployment.macs(deployment.default) / 1e9,
        "policy": float(np.mean([row.policy_macs for row in rows]) / 1e9),
        "oracle": float(np.mean([row.oracle_macs for row in rows]) / 1e9),
    }
    if best_configuration is not None:
        right["single_best"] = np.array([row.right[best_configuration.id] for row in rows])
        gmacs["single_best"] = deployment.macs(best_configuration) / 1e9
    found["cases"] = {who: _accuracy(each) | {"gmacs": gmacs[who]} for who, each in right.items()}
    draws = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    draws = draws.astype(np.uint16)
    for name, base in (("closed_gap", "single_best"), ("recovered_gap", "default")):
        known = base in right
        found[name] = closed_gap(right["policy"], right[base], right["oracle"]) if known else None
        interval = closed_gap_interval(right["policy"], right[base], right["oracle"], draws) if known else None
        found[f"{name}_ci"] = None if interval is None else list(interval)
    return found


def publish(live: dict[str, Any]) -> None:
    """Set the Prometheus gauges."""
    for row in live["shadowed"]:
        for who, case in (row["cases"] or {}).items():
            metrics.SHADOW_ACCURACY.labels(row["policy"], row["shadow"], who).set(case["accuracy"])
        if row["difference"] is not None:
            metrics.SHADOW_DIFFERENCE.labels(row["policy"], row["shadow"]).set(row["difference"])
    for row in live["compared"]:
        metrics.LIVE_IMAGES.labels(row["policy"]).set(row["images"])
        for who, case in row.get("cases", {}).items():
            metrics.LIVE_ACCURACY.labels(row["policy"], who).set(case["accuracy"])
        if row.get("recovered_gap") is not None:
            metrics.LIVE_GAP.labels(row["policy"]).set(row["recovered_gap"])
