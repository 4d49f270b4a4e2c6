"""The benchmark for people: one HTML file that opens offline, its figures, and the same as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from dynamic.files import write_whole
from oracle.reporting.figures import save_figure
from selector.scoring import figures
from selector.scoring.tables import HEADER, STATIC, gap_text, markdown_table, table_rows


def write_report(results: list[dict[str, Any]], out: Path) -> None:
    """Draw all figures and write ``report.html``, ``results.md`` and ``figures/`` into ``out``.

    Args:
        results: of each run, as :func:`selector.scoring.benchmark.benchmark_run` returns them.
        out: folder.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selector.scoring", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    sections = [_section(result, out) for result in results]
    page = environment.get_template("benchmark.html").render(sections=sections, header=HEADER)
    write_whole(out / "report.html", page.encode())
    write_whole(out / "results.md", "\n".join(_markdown(result) for result in results).encode())


def _section(result: dict[str, Any], out: Path) -> dict[str, Any]:
    """What the page shows of a run."""
    name = result["run"]["name"]
    drawn: dict[str, Figure] = {"frontier": figures.frontier(result), "gaps": figures.gaps(result)}
    if result["promises"]:
        drawn["promises"] = figures.promises(result)
    if result["learning_curve"]:
        drawn["learning_curve"] = figures.learning_curve(result)
    if result["by_side"]:
        drawn["by_side"] = figures.by_side(result)
    learned = {row["policy"] for row in result["policies"] if row["learned"]}
    return result | {
        "images": {kind: save_figure(figure, out / "figures" / f"{name}_{kind}") for kind, figure in drawn.items()},
        "rows": [{"cells": cells, "learned": cells[0] in learned} for cells in table_rows(result)],
        "shifted_rows": table_rows(result["shifted"]) if result["shifted"] else [],
        "control_gap": gap_text(result["control"]),
        "static_name": STATIC,
    }


def _markdown(result: dict[str, Any]) -> str:
    """A run's table and sentences as Markdown."""
    sentences = [f"* {sentence}" for sentence in result["verdicts"]]
    return "\n".join([f"### {result['run']['name']}", "", *sentences, "", markdown_table(HEADER, table_rows(result)), ""])
