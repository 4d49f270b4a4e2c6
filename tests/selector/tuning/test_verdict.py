"""What a person is told: what a policy saves or gains, or that none does, and how many images it would take to tell."""

from __future__ import annotations

from typing import Any

from selector.tuning.verdict import HEADER, rows_of, sentences_of, summary_of
from tests.selector.scoring.test_sentences import result, row


def told(*learned: dict[str, Any]) -> dict[str, Any]:
    found = result(*learned)
    found["run"] |= {"model": "my_net.py:build", "terms": {"tolerance": 0.01, "confidence": 0.95}}
    for entry in found["policies"]:
        entry["accuracy_ci"], entry["dial"] = [entry["accuracy"] - 0.03, entry["accuracy"] + 0.03], 0.5
    return found


def versus(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


SAVING = {
    "expected": {"accuracy": 0.70, "gmacs": 0.03, "guaranteed": -0.004},
    "gmacs": 0.03,
    "versus_default": versus(-0.004, 0.01),
}


def test_a_saving() -> None:
    found = told(row("cascade/efficiency", **SAVING), row("cascade/accuracy", **SAVING))
    assert sentences_of(found) == [
        "For these images, my_net.py:build reaches 70.0% at 50.0 MMACs; the oracle, which picks the best of 2 "
        "configurations for each image, would reach 90.0% at 50.0, part of it by luck with the label.",
        "For best accuracy at any cost; for the default's accuracy, within the tolerance, at least cost: cascade saves 40% "
        "of the multiply-accumulates (30.0 MMACs) at 70.0%, -0.4 [-1.4, +0.6] points from the default on the test images; "
        "label images guaranteed at most 0.4 points below the default with 95% confidence. "
        "Whether that is a gain or a loss, about 6250 test images would tell.",
        "For best accuracy at no more than the default's cost: default: there is no learned policy.",
        "The service runs cascade on these images, unless SERVING_OBJECTIVE or SERVING_POLICY say otherwise.",
    ]
    rows = rows_of(found)
    assert {len(cells) for cells in rows} == {len(HEADER)}
    assert rows[-1] == [
        "cascade for accuracy, efficiency", "70.0%", "67.0% – 73.0%", "30.0", "60%", "-0.4 [-1.4, +0.6]"
    ]  # fmt: skip
    summary = summary_of(found)
    assert summary["objectives"]["efficiency"]["policy"] == "cascade"
    assert summary["objectives"]["efficiency"]["guaranteed"] == -0.004
    assert summary["objectives"]["default_cost"]["policy"] == "default"
    assert summary["terms"] == {"tolerance": 0.01, "confidence": 0.95}


def test_a_gain_a_loss_and_nothing() -> None:
    dear = {"expected": {"accuracy": 0.75, "gmacs": 0.08, "guaranteed": 0.03}, "gmacs": 0.08}
    gain = sentences_of(told(row("head/accuracy", **dear, accuracy=0.74, versus_default=versus(0.04, 0.02))))[1]
    assert "head costs 60% more multiply-accumulates (80.0 MMACs) at 74.0%, +4.0 [+2.0, +6.0] points" in gain
    assert "would tell" not in gain
    loss = sentences_of(told(row("head/accuracy", **dear, accuracy=0.66, versus_default=versus(-0.04, 0.02))))[1]
    assert loss.endswith("It is worse than the label images promised: more of them would choose better.")
    even = sentences_of(told(row("head/accuracy", **dear, versus_default=versus(0.0, 0.02))))[1]
    assert even.endswith("No difference was found.")


def test_nothing_helps_and_why() -> None:
    unclear = {"expected": {"accuracy": 0.70, "gmacs": 0.03, "guaranteed": -0.05}}
    found = told(row("cascade/efficiency", **unclear))
    said = next(line for line in sentences_of(found) if line.startswith("For the default's accuracy"))
    assert "default: no policy helps here; the nearest, cascade, is expected to reach 70.0% at 30.0 MMACs" in said
    unclear_words = (
        "but these guarantee only at most 5.0 points below the default with 95% confidence; about 10000 would tell."
    )
    assert f"by cross-validation on 400 label images, {unclear_words}" in said
    assert [cells[0] for cells in rows_of(found)] == ["default", "best single configuration", "oracle"]
    assert sentences_of(found)[-1].startswith("The service runs default on these images")
    assert summary_of(found)["objectives"]["efficiency"]["labels_needed"] == 10_000
    found["before_distillation"] = 0.712
    assert sentences_of(found)[1] == "Before the distillation it reached 71.2% on the same test images."
    flat = told(row("cascade/efficiency", **unclear))
    flat["policies"][2]["accuracy"] = 0.70
    assert "There is no accuracy to gain by choosing: the oracle is no better than the default." in sentences_of(flat)
