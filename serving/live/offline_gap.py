"""The gap to the oracle on the test split, by ``selector.benchmark``, or ``selector.compile`` in another precision."""

from __future__ import annotations

from typing import Any

from serving.inference.deployment import Deployment

_KEPT = (
    "name",
    "policy",
    "objective",
    "dial",
    "accuracy",
    "accuracy_ci",
    "gmacs",
    "gmacs_selector",
    "closed_gap",
    "closed_gap_ci",
    "recovered_gap",
    "recovered_gap_ci",
)


def offline_gap(deployment: Deployment) -> dict[str, Any]:
    """Accuracy and mean GMACs of default, single best, the active policy and the oracle, gaps with 95 % intervals, curves.

    ``available`` is false, with a reason, where the run was not benchmarked.
    """
    results = deployment.results
    if results is None:
        return {"available": False, "reason": deployment.why_no_results}
    rows = {row["name"]: {key: row[key] for key in _KEPT} for row in results["policies"]}
    by_policy = [row for row in rows.values() if row["policy"] == deployment.active.policy]
    active = next((row for row in by_policy if deployment.active.dial in (None, row["dial"])), None)
    facts = results["run"]
    return {
        "available": True,
        "run": facts["name"],
        "model": facts["model"],
        "weights": facts["weights"],
        "split": "test",
        "precision": facts.get("precision", "float32"),
        "images": facts["test_images"],
        "default": rows["default"],
        "single_best": rows["single_best"],
        "active": active,
        "oracle": rows["oracle"],
        "unsolvable_share": facts["unsolvable_share"],
        "policies": list(rows.values()),
        "static": [
            {"configuration": name, "gmacs": gmacs, "accuracy": accuracy}
            for name, gmacs, accuracy in zip(
                *(results["static"][k] for k in ("configurations", "gmacs", "accuracy")), strict=True
            )
        ],
        "curves": {
            name: [{"gmacs": gmacs, "accuracy": accuracy} for gmacs, accuracy in points]
            for name, points in results["curves"].items()
        },
    }
