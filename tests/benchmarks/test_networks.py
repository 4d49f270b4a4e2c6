"""The table of networks: a handful of small ones here, all of them in the nightly test."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.networks import NetworksSettings, Outcome, all_names, main, page, try_network

SMALL = [
    "shufflenet_v2_x0_5",
    "timm/ghostnet_100",
    "timm/tf_efficientnet_b0",
    "timm/res2net50_26w_4s",
    "timm/convnextv2_atto",
]
"""Branches, fused norms, own padding, splits, a network without a stride to vary."""


@pytest.mark.parametrize("name", [SMALL[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL[1:])])
def test_small_networks_run_right(name: str) -> None:
    outcome = try_network(name)
    assert outcome.right, outcome
    assert 1 <= len(outcome.layers) <= 4


@pytest.mark.slow
def test_the_page_counts_and_a_second_call_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = NetworksSettings(out=tmp_path / "page.md", names="squeezenet1_1,swin_t", results=tmp_path / "lines")
    main(settings)
    written = settings.out.read_text()
    assert "1 of 1 CNNs of torchvision and 0 of 0 of timm" in written
    assert "| squeezenet1_1 | 64 | `features.2+features.3.expand3x3`" in written
    assert "| swin_t | SwinTransformer has no layer to choose options for: behind features.0.0" in written
    settings.results.write_text(settings.results.read_text().replace('"exact": true', '"exact": false'))
    main(settings)  # reads what is known
    assert "**no**" in settings.out.read_text()
    assert "0 of 1 CNNs" in settings.out.read_text()


def test_a_network_is_not_right_for_being_let_off() -> None:
    good = {"name": "alexnet", "layers": ("features.0",), "side": 64, "exact": True, "tried": 5, "difference": 1e-6}
    assert Outcome(**good).right
    for wrong in ({"exact": False}, {"tried": 1}, {"difference": 0.1}, {"difference": float("nan")}, {"refused": "why"}):
        assert not Outcome(**(good | wrong)).right
    assert "| alexnet | 64 | `features.0` | – | yes | 1e-06 (5) |" in page([Outcome(**good)])


@pytest.mark.nightly
def test_all_of_torchvisions_cnns_and_most_of_timms_run_right() -> None:
    outcomes = [try_network(name) for name in all_names()]
    wrong = [outcome.name for outcome in outcomes if not outcome.right]
    assert [name for name in wrong if not name.startswith(("timm/", "vit_", "swin_"))] == []
    assert sum(outcome.right for outcome in outcomes if outcome.name.startswith("timm/")) >= 25
    assert all(outcome.refused for outcome in outcomes if not outcome.right), wrong
    committed = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    for outcome in outcomes:
        assert f"| {outcome.name} |" in committed
        assert not outcome.refused or outcome.refused in committed
