"""``report.html`` and ``figures/*.png`` from ``summary.json``: one file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dynamic.configuration import Configuration
from dynamic.files import write_whole
from oracle.reporting import figures
from oracle.reporting.figures import save_figure
from oracle.reporting.html import template
from oracle.reporting.text import aligned, percent
from oracle.study.paper import BEST_CASES, CITATION, pretrained
from oracle.study.registry import markdown, parts, sections

SPLIT = "test"
"""The split that tables and figures for people show."""


def write_report(summary: dict[str, Any], run: Path) -> None:
    """Draw all figures and write the report into ``run``."""
    spaces = summary["spaces"]
    default = Configuration.parse(summary["run"]["default"])
    drawn: dict[str, Figure] = {}
    for name, space in spaces.items():
        drawn[f"preference_flow_{name}"] = figures.preference_flow(name, space[SPLIT], default)
    drawn["unique_predictions"] = figures.unique_predictions(spaces, SPLIT)
    drawn["portfolio"] = figures.portfolio_curves(spaces, SPLIT)
    drawn["cost_cloud"] = figures.cost_cloud(spaces, SPLIT)
    study = summary.get("study", {})
    for name, part in parts().items():
        if part.draw is not None and study.get(name):
            drawn[name] = part.draw(study[name])
    written = sections(study, summary["run"])
    if written:
        write_whole(run / "study.md", markdown(written, study.get("left_out", {})).encode())
    images = {name: save_figure(figure, run / "figures" / name) for name, figure in drawn.items()}
    page = template("report.html").render(
        run=summary["run"],
        spaces=spaces,
        split=SPLIT,
        images=images,
        rows=table_rows(summary),
        unreadable=summary["unreadable"],
        citation=CITATION,
        best_cases=BEST_CASES,
        non_finite=summary["non_finite_share"],
        stand_ins=stand_ins(summary["run"]),
        warnings=summary["warnings"],
        sections=written,
        left_out=study.get("left_out", {}),
    )
    write_whole(run / "report.html", page.encode())


def table_rows(summary: dict[str, Any]) -> list[list[str]]:
    """The main table as text: a row for each space and case, ours with its interval, the paper's beside it."""
    rows = []
    for name, space in summary["spaces"].items():
        ours = space[SPLIT]
        paper = pretrained(summary["run"]["model"], name)
        macs = ours["macs"]
        costs = {"static": macs["default"], "best": macs["oracle"], "single_best": macs["single_best"]}
        for case in ("static", "worst", "median", "best", "single_best"):
            share = ours[case]["accuracy"] if case == "single_best" else ours[case]
            low, high = ours["intervals"][case]
            rows.append(
                [
                    f"{name} ({space['configurations']})" if case == "static" else "",
                    case.replace("_", " ")
                    + (" case (oracle)" if case == "best" else " case" if case in ("worst", "median") else ""),
                    f"{share:.1%}",
                    f"{low:.1%} – {high:.1%}",
                    f"{costs[case] / 1e6:.1f}" if case in costs else "",
                    f"{paper[case]:.1f}%" if case in paper else "—",
                ]
            )
    return rows


def stand_ins(run: dict[str, Any]) -> list[str]:
    """Sentences that say what in a run is small, for tables to carry; none if nothing is."""
    sentences = []
    if run["slim"]:
        sentences.append("The network is a slim copy of its namesake, trained from scratch for this project.")
    if run["stand_in"]:
        sentences.append("The images are fashion-scenes: Fashion-MNIST photographs among clutter at 96 x 96 pixels.")
    if sentences:
        sentences.append("The paper's are full networks on ImageNet at 224 x 224: compare the shape, not the numbers.")
    return sentences


LONGEST_TABLE = 20
"""Rows of a study's table that a terminal is shown."""

HEADER = ["space (configurations)", "each image runs", "accuracy", "95 % interval", "MMACs", "paper"]


def text_table(summary: dict[str, Any]) -> str:
    """The main table for a terminal."""
    return aligned(HEADER, table_rows(summary))


def study_text(summary: dict[str, Any]) -> str:
    """The study's short tables for a terminal; the report has them all."""
    written = sections(summary.get("study", {}), summary["run"])
    return "\n".join(
        f"\n{part.title}\n\n{aligned(section.header, section.rows)}"
        for part, section in written.items()
        if 0 < len(section.rows) <= LONGEST_TABLE
    )


BOUNDS_HEADER = ["space", "static, %", "worst, %", "best, %", "MMACs as the default", "as the best case", "MACs saved"]


def bounds_rows(result: dict[str, Any]) -> list[list[str]]:
    """The result as text, a row for each space."""
    return [
        [
            f"{name} ({found['configurations']})",
            *(percent(found[case]) for case in ("static", "worst", "best")),
            f"{found['as_default_macs']['value'] / 1e6:.1f}",
            f"{found['as_best_macs']['value'] / 1e6:.1f}",
            f"{found['macs_saved']:.1%}",
        ]
        for name, found in result["spaces"].items()
    ]


def write_bounds_page(result: dict[str, Any], identity: dict[str, str], path: Path) -> None:
    """Write the page of exact bounds.

    Args:
        result: as :func:`oracle.evaluation.bounds_run.run_bounds` gives it.
        identity: of the run, for people.
        path: of the HTML file.
    """
    page = template("bounds.html").render(run=identity, result=result, header=BOUNDS_HEADER, rows=bounds_rows(result))
    write_whole(path, page.encode())
