"""The benchmark for people: one HTML file that opens offline, its figures, and the same as Markdown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from dynamic.files import write_whole
from oracle.reporting.figures import save_figure
from selector.scoring import figures
from selector.scoring.scoreboard import Scale, cards, scoreboard
from selector.scoring.tables import HEADER, gap_text, markdown_table, table_rows

FAILURES = (
    "Selectors on frozen weights: what failed first",
    "Multiple-choice learning: the gate collapses, then works, then loses to plain training",
    "More views of the same photographs are not more labels",
    "A gain that choosing did not bring",
)
"""Entries of docs/LOG.md that whoever enters a policy should know."""


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
    template = environment.get_template("benchmark.html")
    page = template.render(sections=sections, header=HEADER, docs=_docs_from(out), failures=FAILURES)
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
    board = scoreboard(result)
    return result | {
        "images": {kind: save_figure(figure, out / "figures" / f"{name}_{kind}") for kind, figure in drawn.items()},
        "rows": table_rows(result),
        "board": board,
        "cards": cards(result),
        "scale": Scale.of(board),
        "oracle": next(line for line in board if line.kind == "oracle"),
        "default": next(100 * row["accuracy"] for row in result["policies"] if row["name"] == "default"),
        "dominated": sum(line.dominated for line in board),
        "tested": sum(row["learned"] for row in result["policies"]),
        "timed": any(line.milliseconds for line in board),
        "shifted_rows": table_rows(result["shifted"]) if result["shifted"] else [],
        "control_gap": gap_text(result["control"]),
    }


def _docs_from(out: Path) -> str | None:
    """Where the documents are, seen from the page; None where only the package was installed."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    return Path(os.path.relpath(docs, out.resolve())).as_posix() if (docs / "LOG.md").exists() else None


def _markdown(result: dict[str, Any]) -> str:
    """A run's table and sentences as Markdown."""
    sentences = [f"* {sentence}" for sentence in result["verdicts"]]
    return "\n".join([f"### {result['run']['name']}", "", *sentences, "", markdown_table(HEADER, table_rows(result)), ""])
