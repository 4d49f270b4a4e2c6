"""``report.html`` and ``figures/*.png`` from ``summary.json``: one file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from dynamic.configuration import Configuration
from dynamic.files import write_whole
from oracle.reporting import figures
from oracle.reporting.figures import save_figure
from oracle.study import figures as study_figures
from oracle.study.paper import CITATION, RESNET50_IMAGENET
from oracle.study.sections import markdown, sections

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
    for part, draw in study_figures.DRAW.items():
        if study.get(part):
            drawn[part] = draw(study[part])
    written = sections(study, summary["run"])
    if written:
        write_whole(run / "study.md", markdown(written).encode())
    images = {name: save_figure(figure, run / "figures" / name) for name, figure in drawn.items()}
    page = template("report.html").render(
        run=summary["run"],
        spaces=spaces,
        split=SPLIT,
        images=images,
        rows=table_rows(summary),
        unreadable=summary["unreadable"],
        citation=CITATION,
        non_finite=summary["non_finite_share"],
        stand_ins=stand_ins(summary["run"]),
        sections=written,
        left_out=study.get("left_out", {}),
    )
    write_whole(run / "report.html", page.encode())


def template(name: str) -> jinja2.Template:
    """A page of ``templates/``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("oracle.reporting", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


def table_rows(summary: dict[str, Any]) -> list[list[str]]:
    """The main table as text: a row for each space and case, ours with its interval, the paper's beside it."""
    rows = []
    is_papers_network = summary["run"]["model"].removesuffix("-slim") == "resnet50"
    for name, space in summary["spaces"].items():
        ours = space[SPLIT]
        paper = RESNET50_IMAGENET.get(name, {}) if is_papers_network else {}
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
                    f"{paper[case]:.1%}" if case in paper else "—",
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
        sentences.append("The paper's numbers are ResNet-50's on ImageNet at 224 x 224: compare the shape, not the numbers.")
    return sentences


LONGEST_TABLE = 20
"""Rows of a study's table that a terminal is shown."""

HEADER = ["space (configurations)", "each image runs", "accuracy", "95 % interval", "MMACs", "paper"]


def text_table(summary: dict[str, Any]) -> str:
    """The main table for a terminal."""
    return aligned(HEADER, table_rows(summary))


def study_text(summary: dict[str, Any]) -> str:
    """The study's short tables for a terminal; the report has them all."""
    told = []
    for section in sections(summary.get("study", {}), summary["run"]):
        if 0 < len(section.rows) <= LONGEST_TABLE:
            told.append(f"\n{section.title}\n\n{aligned(section.header, section.rows)}")
    return "\n".join(told)


def aligned(header: list[str], rows: list[list[str]]) -> str:
    """A table for a terminal."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
