from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import oracle.study
from oracle.pipeline import run
from oracle.settings import RunSettings
from oracle.study.registry import parse_parts, parts

DUMMY = """
from oracle.reporting.figures import figure_and_axes
from oracle.study.part import Part, Section

def draw(data):
    figure, axes = figure_and_axes(2, 2)
    axes.plot([0, data["default"]])
    return figure

PART = Part(
    name="fig99",
    order=45,
    label="Fig. 99",
    what="a figure that one module adds",
    needs=lambda planner: planner.add("tiny", resize=0.5, images=1),
    compute=lambda study: {"default": float(study.of("tiny", study.names[0]).macs[0])},
    describe=lambda data, run: Section(["One module wrote this."], ["MACs"], [[f"{data['default']:.0f}"]]),
    draw=draw,
)
"""


def test_the_papers_parts_are_found_in_order() -> None:
    assert list(parts()) == ("table1 table2 table3 fig2 fig3 fig4 fig5 fig6 fig7 receptive_field recalibration".split())
    assert parts()["fig6"].title == "Fig. 6: the efficiency bound (section 4.6)"


@pytest.mark.slow
def test_one_module_adds_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "fig99.py").write_text(DUMMY)
    monkeypatch.setattr(oracle.study, "__path__", [*oracle.study.__path__, str(tmp_path / "more")])
    (tmp_path / "two.json").write_text('{"stride": [[1, 2], [2], [2], [2]]}')
    out = tmp_path / "run"
    try:
        assert parse_parts("all").index("fig99") == parse_parts("all").index("fig2") + 1
        run(RunSettings(space=str(tmp_path / "two.json"), images=2, study="fig99", out=out))
    finally:
        sys.modules.pop("oracle.study.fig99", None)
    study = json.loads((out / "summary.json").read_text())["study"]
    assert study["fig99"]["default"] > 0
    assert study["sets"]["tiny"]["resize"] == "0.5"
    for text in ((out / "report.html").read_text(), (out / "study.md").read_text()):
        assert "Fig. 99: a figure that one module adds" in text
        assert "One module wrote this." in text
        assert f"{study['fig99']['default']:.0f}" in text
    assert (out / "figures" / "fig99.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_importing_changes_nothing_global() -> None:
    """Every module of ``oracle`` but its commands: matplotlib's backend and settings are as they were."""
    code = """
import importlib, pkgutil, matplotlib, oracle
before, backend = dict(matplotlib.rcParams.copy()), matplotlib.get_backend(auto_select=False)
for found in pkgutil.walk_packages(oracle.__path__, "oracle."):
    importlib.import_module(found.name)
import oracle.reporting.figures as figures
figures.figure_and_axes(1, 1)
import sys
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
assert matplotlib.get_backend(auto_select=False) == backend
assert dict(matplotlib.rcParams.copy()) == before
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
