"""The benchmark for people: the table, what it says in sentences, figures, and one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from dynamic.files import write_whole
from oracle.reporting.figures import save_figure
from selector.policies.base import TOLERANCE
from selector.scoring import figures

HEADER = [
    "policy",
    "objective",
    "accuracy",
    "MMACs",
    "own",
    "closed gap",
    "vs default",
    "vs single best",
    "above coin",
    "ms at 1 / 32",
]

OBJECTIVE_WORDS = {
    "accuracy": "best accuracy at any cost",
    "default_cost": "best accuracy at no more than the default's cost",
    "efficiency": "the default's accuracy, less half a point, at least cost",
}


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """The table as text, a row a policy and objective."""
    return [
        [
            row["policy"],
            (row["objective"] or "").replace("_", " "),
            f"{row['accuracy']:.1%}",
            f"{1000 * row['gmacs']:.1f}",
            f"{1000 * row['gmacs_selector']:.1f}",
            _gap(row),
            _difference(row["versus_default"]),
            _difference(row["versus_single_best"]),
            _difference(row["above_hull"]),
            " / ".join(f"{ms:.1f}" for ms in row["milliseconds"].values()) if row.get("milliseconds") else "",
        ]
        for row in result["policies"]
    ]


def _gap(row: dict[str, Any]) -> str:
    if row["closed_gap"] is None:
        return "undefined"
    interval = row["closed_gap_ci"]
    return f"{row['closed_gap']:.1%}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _difference(found: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['value']:+.1f} [{low:+.1f}, {high:+.1f}]"


def verdicts(result: dict[str, Any]) -> list[str]:
    """What came out, in sentences; for each objective of the policy that the label split recommends."""
    learned = [row for row in result["policies"] if row["learned"] and row["expected"]]
    by_name = {row["name"]: row for row in result["policies"]}
    default, single, oracle = by_name["default"], by_name["single_best"], by_name["oracle"]
    said = [
        f"On {result['run']['test_images']} test images the default reaches {default['accuracy']:.1%} at "
        f"{1000 * default['gmacs']:.1f} MMACs, the single best {single['accuracy']:.1%}, the oracle over "
        f"{len(result['run']['configurations'])} configurations {oracle['accuracy']:.1%}."
    ]
    for objective, words in OBJECTIVE_WORDS.items():
        rows = [row for row in learned if row["objective"] == objective]
        if rows:
            said.append(_verdict(recommended(rows, objective, default), words, default))
    tried = [row for row in result["policies"] if row["learned"]]
    beating = [row["name"] for row in tried if row["versus_single_best"]["interval"][0] > 0]
    count = f"Of {len(tried)} rows of learned policies"
    if beating:
        said.append(f"{count}, better than the single best with an interval above zero: {', '.join(beating)}.")
    else:
        said.append(f"{count}, none beats the single best with an interval above zero.")
    said.append(f"Control: fitted on shuffled labels, a correctness policy closes {_gap(result['control'])} of the gap.")
    return said


def recommended(rows: list[dict[str, Any]], objective: str, default: dict[str, Any]) -> dict[str, Any]:
    """Of one objective's rows the one with the best expectation, estimated on the label split alone."""
    if objective == "efficiency":
        needed = default["expected"]["accuracy"] - TOLERANCE
        good = [row for row in rows if row["expected"]["accuracy"] >= needed]
        if good:
            return min(good, key=lambda row: row["expected"]["gmacs"])
    if objective == "default_cost":
        within = [row for row in rows if row["expected"]["gmacs"] <= default["gmacs"]] or rows
        return max(within, key=lambda row: row["expected"]["accuracy"])
    return max(rows, key=lambda row: row["expected"]["accuracy"])


def _verdict(row: dict[str, Any], words: str, default: dict[str, Any]) -> str:
    saved = row["gmacs"] / default["gmacs"]
    return (
        f"For {words}: {row['policy']}, chosen on the label split, reaches {row['accuracy']:.1%} at "
        f"{1000 * row['gmacs']:.1f} MMACs ({saved:.0%} of the default's), {_difference(row['versus_default'])} points from "
        f"the default; it closes {_gap(row)} of the gap and lies {_difference(row['above_hull'])} points above what a coin "
        "between two constants gets for the same cost."
    )


def write_report(results: list[dict[str, Any]], out: Path) -> None:
    """Draw all figures and write ``report.html`` and ``results.md`` into ``out``."""
    sections = []
    for result in results:
        name = result["run"]["name"]
        drawn: dict[str, Figure] = {"frontier": figures.frontier(result), "gaps": figures.gaps(result)}
        if result["learning_curve"]:
            drawn["learning_curve"] = figures.learning_curve(result)
        if result["by_side"]:
            drawn["by_side"] = figures.by_side(result)
        images = {kind: save_figure(figure, out / "figures" / f"{name}_{kind}") for kind, figure in drawn.items()}
        shifted = result["shifted"]
        sections.append(
            result
            | {
                "images": images,
                "rows": table_rows(result),
                "shifted_rows": table_rows({"policies": shifted["policies"]}) if shifted else [],
                "control_gap": _gap(result["control"]),
            }
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selector.scoring", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("benchmark.html").render(sections=sections, header=HEADER)
    write_whole(out / "report.html", page.encode())
    write_whole(out / "results.md", "\n".join(_markdown(result) for result in results).encode())


def _markdown(result: dict[str, Any]) -> str:
    """A run's table and sentences as Markdown."""
    lines = [f"### {result['run']['name']}", "", *(f"* {sentence}" for sentence in result["verdicts"]), ""]
    lines += [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    lines += [f"| {' | '.join(row)} |" for row in table_rows(result)]
    return "\n".join([*lines, ""])
