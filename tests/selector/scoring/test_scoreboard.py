"""The scoreboard: sorted, every rival in it, every comparison corrected; and the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selector.learning.fitting import calibrate
from selector.observation.observations import Observations
from selector.policies import make
from selector.policies.objectives import OBJECTIVES
from selector.policies.running import PolicyRuns
from selector.scoring.curves import areas, dial_curves, static_points
from selector.scoring.ranking import rank
from selector.scoring.report import FAILURES, write_report
from selector.scoring.rivals import StaticNetwork, against_networks
from selector.scoring.scoreboard import Scale, cards, scoreboard, short_names
from selector.scoring.sentences import sentences

ROOT = Path(__file__).parents[3]
Splits = tuple[Observations, Observations]


def _mostly(observed: Observations, share: float) -> np.ndarray:
    """Right on this share of the images, spread evenly."""
    places = np.arange(len(observed))
    return np.asarray(np.floor((places + 1) * share) > np.floor(places * share))


@pytest.fixture(scope="module")
def result(ruled: Splits) -> dict[str, Any]:
    label, test = ruled
    policies = [calibrate(policy, label) for policy in make("correctness")]
    networks = [
        StaticNetwork(name="narrow", macs=0.6 * label.costs.default, label=_mostly(label, 0.95), test=_mostly(test, 0.95)),
        StaticNetwork(name="wide", macs=9 * label.costs.default, label=_mostly(label, 0.5), test=_mostly(test, 0.5)),
    ]
    ranking = rank(policies, label, PolicyRuns(test), networks)
    for number, row in enumerate(ranking.rows):
        row["milliseconds"] = {"1": 10.0 + number, "32": 2.0}
        row["static_ratio"] = {"1": {"median": 0.5, "low": 0.4, "high": 0.6}}
    curves = dial_curves(policies, PolicyRuns(test))
    found: dict[str, Any] = {
        "run": {
            "name": "ruled",
            "model": "<made> & up",
            "weights": "none",
            "dataset": "scenes",
            "regime": None,
            "recalibrated_on": 0,
            "label_images": len(label),
            "test_images": len(test),
            "terms": {"tolerance": 0.01, "confidence": 0.95},
            "configurations": [c.id for c in test.portfolio],
            "default": test.portfolio[test.default].id,
            "default_gmacs": test.costs.default / 1e9,
            "unsolvable_share": 0.0,
        },
        "policies": ranking.rows,
        "static": static_points(test),
        "networks": against_networks(networks, policies, label, PolicyRuns(test), ranking.references),
        "static_network_milliseconds": {"1": 5.0, "32": 1.0},
        "timed_in": "ONNX Runtime on 1 thread",
        "curves": curves,
        "area": areas(curves, test),
        "promises": {},
        "by_side": [],
        "control": {"accuracy": 0.3, "closed_gap": 0.0, "closed_gap_ci": [-0.1, 0.1]},
        "learning_curve": [],
        "shifted": None,
        "notes": [],
    }
    return found | {"verdicts": sentences(found)}


def test_lines_are_sorted_and_every_configuration_is_a_rival(result: dict[str, Any]) -> None:
    board = scoreboard(result)
    assert [line.accuracy for line in board] == sorted((line.accuracy for line in board), reverse=True)
    assert [line.place for line in board if line.kind == "learned"] == list(
        range(1, 1 + sum(line.kind == "learned" for line in board))
    )
    statics = {line.name: line for line in board if line.kind == "static"}
    assert set(statics) == {*short_names(result["static"]["configurations"]).values(), "narrow", "wide"}
    assert {name for line in statics.values() for name in line.also} >= {"default", "single best", "cheapest"}
    assert not {"default", "single best"} & {line.name for line in board}
    default = next(line for line in statics.values() if "default" in line.also)
    assert (default.milliseconds, default.share) == ("5.0 / 1.0", pytest.approx(1))
    for line in statics.values():
        others = [o for o in statics.values() if o.mmacs <= line.mmacs and o.accuracy >= line.accuracy and o is not line]
        assert line.dominated <= bool(others)
    learned = [line for line in board if line.kind == "learned"]
    objectives = [objective for line in learned for objective in line.also]
    assert sorted(objectives) == sorted(objective.replace("_", " ") for objective in OBJECTIVES)
    for line in learned:
        assert line.default.verdict
        assert line.static.verdict
        assert line.static.rival in statics
        assert statics[line.static.rival].mmacs <= line.mmacs * (1 + 1e-6)


def test_the_rival_is_the_best_of_the_label_split_that_costs_no_more(result: dict[str, Any], ruled: Splits) -> None:
    label, test = ruled
    learned = [row for row in result["policies"] if row["learned"]]
    for row in learned:
        affordable = label.costs.whole / 1e9 <= row["gmacs"] * (1 + 1e-9)
        best = np.where(affordable, label.correct.mean(axis=0), -1).argmax()
        rival = row["versus_static"]
        if row["gmacs"] >= 0.6 * label.costs.default / 1e9:
            assert rival["configuration"] == "narrow"
            assert rival["value"] == pytest.approx(row["accuracy"] - 0.95, abs=0.02)
            continue
        assert rival["configuration"] == label.portfolio[best].id
        assert rival["value"] == pytest.approx(row["accuracy"] - test.correct[:, best].mean())
        assert rival["won"] - rival["lost"] == round(rival["value"] * len(test))
        assert rival["p"] <= rival["p_holm"] <= min(1, rival["p"] * len(learned)) + 1e-12
    assert all(row["versus_static"]["p_holm"] is None for row in result["policies"] if not row["learned"])


def test_cards_say_what_the_label_split_recommends(result: dict[str, Any]) -> None:
    made = cards(result)
    assert len(made) == len(OBJECTIVES)
    assert made[0].policy == "correctness"
    assert made[0].verdict == "better"


def test_the_strip_shows_learned_policies_and_clips_the_rest(result: dict[str, Any]) -> None:
    board = scoreboard(result)
    scale = Scale.of(board)
    for line in board:
        assert 0 <= scale.at(line.accuracy) <= 100
        assert not (line.kind == "learned" and scale.outside(line.accuracy))
    assert scale.at(scale.low) == 0
    assert scale.at(scale.high + 1) == 100


def test_the_page_has_them_all_and_says_how_to_enter(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_report([result], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;made&gt; &amp; up" in page
    assert "http" not in page
    rows = re.findall(r'<tr class="(\w+)', page)
    assert rows.count("static") == len(result["static"]["configurations"]) + len(result["networks"])
    assert rows.index("oracle") <= rows.index("learned")
    assert "no difference found" in page or "better" in page
    assert "--policies cascade,my_policy.py:MyPolicy" in page
    for document in ("EXTENDING.md", "LOG.md"):
        found = re.search(rf'href="([^"]*{document})"', page)
        assert found is not None
        assert (tmp_path / "out" / found[1]).resolve() == ROOT / "docs" / document
    log = (ROOT / "docs" / "LOG.md").read_text()
    for title in FAILURES:
        assert re.search(rf"^## \S+ · {re.escape(title)}$", log, re.MULTILINE), title
