from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oracle.evaluation.estimates import share
from oracle.evaluation.paired import paired_difference
from oracle.study.fig6 import times_fewer
from oracle.study.preferences import trend
from oracle.study.receptive_field import explanations
from oracle.study.sentences import directions, tell
from oracle.study.table1 import order_of_cases
from oracle.study.table3 import is_combining_better

UP, DOWN, NONE = ({"value": v, "p": p, "interval": [-1, 1]} for v, p in ((0.2, 0.001), (-0.2, 0.001), (0.2, 0.5)))


def test_every_branch_of_the_sentence() -> None:
    how = "(paired on the same images, p < 0.05)"
    assert tell("It", {"a": UP}) == f"It rises in a {how}."
    assert tell("It", {"a": DOWN}) == f"It falls in a {how}."
    assert tell("It", {"a": NONE}) == f"It: no difference is shown in a {how}."
    all_three = tell("It", {"a": UP, "b": DOWN, "c": NONE}, up="grows", down="shrinks", how="two samples")
    assert all_three == (
        "It grows in a; shrinks in b; no difference is shown in c "
        "(two samples, p < 0.05 after Holm's correction for 3 comparisons)."
    )
    assert tell("It", {}) == "It: nothing to compare."
    assert tell("It", {"a": UP, "b": DOWN}, only=["b"]).startswith("It falls in b (")


def test_many_looks_need_more_evidence() -> None:
    weak = {"value": 0.1, "p": 0.02}
    assert directions({"a": weak}).up == ["a"]
    assert directions({name: weak for name in "abc"}).unclear == ["a", "b", "c"]  # 3 x 0.02 is above 0.05
    assert directions({"a": {"value": 0.0, "p": 0.001}}).unclear == ["a"]


def right(count: int) -> np.ndarray:
    return np.arange(250) < count


def table3(combined: np.ndarray, single: np.ndarray) -> dict[str, Any]:
    return {
        "single": {"stride": {"best": share(single)}},
        "combined": {"both": {"best": share(combined)}},
        "combined_minus_single": {"both": {"stride": paired_difference(combined, single)}},
    }


def test_table3_tells_both_directions_and_the_tie() -> None:
    # 100.0 [98.5, 100.0] against 52.4 [46.2, 58.5]: once called "within each other's intervals", one way round.
    high, low = right(250), right(131)
    better, worse, tie = (is_combining_better(table3(*pair)) for pair in ((high, low), (low, high), (high, high)))
    assert "100.0 [98.5, 100.0] % (both), of single attributes 52.4 [46.2, 58.5] % (stride)" in better
    assert "is higher when attributes are combined, in both against stride" in better
    assert "of the combinations is 52.4 [46.2, 58.5] %" in worse
    assert "is lower when attributes are combined, in both against stride" in worse
    assert "no difference is shown in both against stride" in tie
    assert not any("each other's intervals" in text for text in (better, worse, tie))


@pytest.mark.parametrize(
    ("worst", "best", "claimed"), [(DOWN, UP, True), (NONE, UP, False), (DOWN, NONE, False), (UP, UP, False)]
)
def test_table1_claims_the_papers_order_only_where_it_is_shown(worst: Any, best: Any, claimed: bool) -> None:
    told = order_of_cases({"net": {"stride": {"against_static": {"worst": worst, "best": best}}}})
    assert told.startswith("As in the paper") == claimed
    assert ("Not shown here" in told) != claimed
    assert ("net stride (worst)" in told) == (worst is not DOWN)
    assert ("net stride (best)" in told) == (best is not UP)


def test_trends_say_how_they_compare() -> None:
    def data(difference: Any, paired: bool) -> dict[str, Any]:
        layers = [{"stride": difference}]
        return {"stride": {"50": {}, "100": {"against_first": {"paired": paired, "images": 7, "layers": layers}}}}

    assert "option rises in stride A (paired on the same images" in trend(data(UP, True), "crop")
    assert "option falls in stride A (on different images, two samples" in trend(data(DOWN, False), "crop")
    assert "no difference is shown in stride A" in trend(data(NONE, True), "crop")
    assert trend(data(UP, True), "crop").endswith("Images compared, solvable in both: stride 7.")
    assert trend(data(None, True), "crop") == "There is nothing to compare between the smallest and the largest crop."
    assert trend({"stride": {"whole view": {}}}, "crop").startswith("There is nothing to compare")


def test_receptive_field_claims_only_what_differs() -> None:
    def data(difference: Any, side: Any = None) -> dict[str, Any]:
        found: dict[str, Any] = {"configurations": {"growth_minus_scalar": difference}}
        return {"stride": found | ({"sides": {"A": side}} if side else {})}

    assert explanations(data(UP))[0].startswith("Growth, against the scalar, explains more in stride")
    assert explanations(data(DOWN))[0].startswith("Growth, against the scalar, explains less in stride")
    assert "no difference is shown in stride" in explanations(data(NONE))[0]
    assert "nothing to compare" in explanations(data({"value": None, "interval": None}))[0]
    assert len(explanations(data(UP))) == 1
    assert "grows with the object's true side in stride A" in explanations(data(UP, UP))[1]
    assert "shrinks with the object's true side in stride A" in explanations(data(UP, DOWN))[1]


def test_efficiency_is_as_in_the_paper_only_beyond_its_interval() -> None:
    def found(low: float, cheapest: int) -> dict[str, Any]:
        times = {"value": 12.0, "interval": [low, 13.0]}
        return {"same_as_default": {"times_fewer": times}, "default_macs": 100, "cloud": {"macs": [100, cheapest]}}

    assert times_fewer(found(11, 5), papers=True).endswith("more than ten times, as here.")
    assert times_fewer(found(9, 5), papers=True).endswith("more than ten times.")
    assert "No choice can reach that here" in times_fewer(found(9, 20), papers=True)
    assert "paper" not in times_fewer(found(11, 5), papers=False)
