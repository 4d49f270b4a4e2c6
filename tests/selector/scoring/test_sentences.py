"""Every branch of every sentence, on rows made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from selector.scoring.sentences import sentences, verdict
from selector.scoring.tables import HEADER, STATIC, markdown_table, table_rows


def versus(value: float, p: float | None) -> dict[str, Any]:
    won, lost = (80, 20) if value > 0 else (20, 80)
    return {"value": value, "interval": [value - 0.01, value + 0.01], "won": won, "lost": lost, "p": 0.01, "p_holm": p}


def row(name: str, **changes: Any) -> dict[str, Any]:
    policy, _, objective = name.partition("/")
    made = {
        "name": name,
        "policy": policy,
        "objective": objective or None,
        "learned": bool(objective),
        "expected": {"accuracy": 0.71, "gmacs": 0.047} if objective else {"accuracy": 0.7, "gmacs": 0.05},
        "accuracy": 0.7,
        "gmacs": 0.05,
        "gmacs_selector": 0.001,
        "closed_gap": 0.25,
        "closed_gap_ci": [0.2, 0.3],
        "versus_default": versus(0.02, 0.001 if objective else None),
        "versus_single_best": versus(0.02, 0.001 if objective else None),
        "above_hull": {"value": 0.03, "interval": [0.02, 0.04]},
    }
    return made | changes


def result(*learned: dict[str, Any], control: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "run": {"test_images": 1000, "label_images": 400, "configurations": ["a", "b"], "default_gmacs": 0.05},
        "policies": [row("default"), row("single_best"), row("oracle", accuracy=0.9), *learned],
        "networks": [],
        "control": control or {"accuracy": 0.6, "closed_gap": -0.03, "closed_gap_ci": [-0.06, -0.01]},
    }


def test_better() -> None:
    found = sentences(result(row("cascade/accuracy")))
    assert found == [
        "On 1000 test images the default reaches 70.0% at 50.0 MMACs, the single best (SBS) 70.0%, the oracle (VBS) over "
        "2 configurations 90.0%.",
        "For best accuracy at any cost: cascade, chosen on the label split, reaches 70.0% at 50.0 MMACs (100% of the "
        "default's): better than the default (+2.0 [+1.0, +3.0] points, adjusted p 0.001). It closes 25.0% [20.0, 30.0] of "
        "the gap. It lies above the best randomised mixture of two static points of the same cost "
        "(+3.0 [+2.0, +4.0] points).",
        "Of 1 rows of learned policies, better than the single best (McNemar's exact test, p adjusted by Holm for 1 rows, "
        "below 0.05): cascade/accuracy.",
        "Worse than the single best, by the same test: none.",
        "Control: fitted on shuffled labels, a correctness policy closes -3.0% [-6.0, -1.0] of the gap.",
    ]


def test_worse_and_not_distinguishable() -> None:
    worse = {"versus_default": versus(-0.02, 0.001), "versus_single_best": versus(-0.02, 0.001)}
    unclear = {"versus_default": versus(0.02, 0.2), "versus_single_best": versus(0.02, 0.2)}
    found = sentences(result(row("head/efficiency", **worse), row("cascade/accuracy", **unclear)))
    assert "not distinguishable from the default (+2.0 [+1.0, +3.0] points, adjusted p 0.2)" in found[1]
    assert "worse than the default (-2.0 [-3.0, -1.0] points, adjusted p 0.001)" in found[2]
    assert found[3].startswith("Of 2 rows of learned policies, better than the single best")
    assert found[3].endswith("below 0.05): none.")
    assert found[4] == "Worse than the single best, by the same test: head/efficiency."


def test_an_interval_above_zero_is_not_enough() -> None:
    """Of many rows one has an interval above zero by chance: the adjusted p decides, not the interval."""
    chance = versus(0.02, 0.4)
    assert chance["interval"][0] > 0
    found = sentences(result(row("cascade/accuracy", versus_single_best=chance)))
    assert found[2].endswith("below 0.05): none.")


@pytest.mark.parametrize(
    ("interval", "words"),
    [([0.01, 0.02], "lies above"), ([-0.02, -0.01], "lies below"), ([-0.01, 0.01], "is not distinguishable from")],
)
def test_against_the_mixture(interval: list[float], words: str) -> None:
    found = sentences(result(row("cascade/accuracy", above_hull={"value": 0.0, "interval": interval})))
    assert f"It {words} the best randomised mixture of two static points of the same cost" in found[1]


def test_an_undefined_gap() -> None:
    undefined = {"closed_gap": None, "closed_gap_ci": None}
    found = sentences(result(row("cascade/accuracy", **undefined), control={"accuracy": 0.6} | undefined))
    assert "There is no gap to close: the oracle is no better than the single best." in found[1]
    assert found[-1].endswith("a correctness policy reaches 60.0%; there is no gap to close.")
    assert "undefined" not in " ".join(found)


def test_a_gap_without_an_interval() -> None:
    found = sentences(result(row("cascade/accuracy", closed_gap_ci=None)))
    assert "It closes 25.0% of the gap." in found[1]


def test_no_learned_rows() -> None:
    found = sentences(result())
    assert found[1:-1] == ["No learned policy was ranked."]


def test_a_control_that_closes_something() -> None:
    control = {"accuracy": 0.8, "closed_gap": 0.1, "closed_gap_ci": [0.05, 0.15]}
    assert sentences(result(control=control))[-1].endswith(
        "closes 10.0% [5.0, 15.0] of the gap, where it must close nothing: labels leak."
    )
    unsure = control | {"closed_gap_ci": None}
    assert sentences(result(control=unsure))[-1].endswith("closes 10.0% of the gap.")


def test_the_recommended_row_is_chosen_by_expectation_not_by_the_test_split() -> None:
    lucky = row("head/accuracy", accuracy=0.95)
    expected = row("cascade/accuracy", expected={"accuracy": 0.8, "gmacs": 0.05})
    assert "any cost: cascade," in sentences(result(lucky, expected))[1]
    # An outside selector makes no promise: it is counted, not recommended.
    outside = row("asf_pairwise", learned=True, expected=None)
    outside |= {"versus_single_best": versus(0.02, 0.001), "versus_default": versus(0.02, 0.001)}
    found = sentences(result(expected, outside))
    assert found[2].endswith(": cascade/accuracy, asf_pairwise.")


def test_verdict_at_the_level() -> None:
    assert verdict(versus(0.02, 0.05)) == "not distinguishable"
    assert verdict(versus(0.02, 0.0499)) == "better"
    assert verdict(versus(-0.02, 0.0499)) == "worse"


def test_the_table_has_the_static_network_and_ratios_with_their_spread() -> None:
    ratio = {"1": {"median": 0.5, "low": 0.45, "high": 0.6}, "32": {"median": 1.2, "low": 1.1, "high": 1.3}}
    timed = row("cascade/accuracy", milliseconds={"1": 4.0, "32": 0.5}, static_ratio=ratio)
    found = result(timed) | {"static_network_milliseconds": {"1": 2.0, "32": 0.6}}
    rows = table_rows(found)
    assert {len(cells) for cells in rows} == {len(HEADER)}
    first, last = (dict(zip(HEADER, rows[position], strict=True)) for position in (0, -1))
    assert first["policy"] == STATIC
    assert (first["MMACs"], first["ms at 1 / 32"]) == ("50.0", "2.0 / 0.6")
    assert last["ms at 1 / 32"] == "4.0 / 0.5"
    assert last["x static at 1 / 32"] == "0.50 [0.45, 0.60] / 1.20 [1.10, 1.30]"
    assert last["adjusted p"] == "0.001"
    # Untimed: no such row.
    assert [cells[0] for cells in table_rows(result(row("cascade/accuracy")))] == [
        "default",
        "single_best",
        "oracle",
        "cascade",
    ]
    assert markdown_table(HEADER, rows).count("\n") == len(rows) + 1
