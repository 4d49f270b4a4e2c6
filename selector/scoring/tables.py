"""The benchmark's table as text: a row for each policy and objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = [
    "policy",
    "objective",
    "accuracy",
    "MMACs",
    "own",
    "closed gap",
    "vs default",
    "guaranteed",
    "vs single best",
    "adjusted p",
    "above mixture",
    "ms at 1 / 32",
    "x static at 1 / 32",
]

STATIC = "static network, norms folded"
"""The row of what one would deploy without a selector; every speed-up is over it."""


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The table of ``result["policies"]``, and the static network's row where it was timed.

    Args:
        result: ``policies`` as :func:`selector.scoring.ranking.rank` makes them; ``static_network_milliseconds`` and
            ``run`` where there are.
    """
    rows = [_row(row) for row in result["policies"]]
    milliseconds = result.get("static_network_milliseconds")
    if milliseconds:
        mmacs = f"{1000 * result['run']['default_gmacs']:.1f}"
        blank = [""] * (len(HEADER) - 7)
        rows.insert(0, [STATIC, "", "", mmacs, "0.0", *blank, _milliseconds(milliseconds), ""])
    return rows


def _row(row: Mapping[str, Any]) -> list[str]:
    p = row["versus_single_best"]["p_holm"]
    ratios = row.get("static_ratio") or {}
    return [
        row["policy"],
        (row["objective"] or "").replace("_", " "),
        f"{row['accuracy']:.1%}",
        f"{1000 * row['gmacs']:.1f}",
        f"{1000 * row['gmacs_selector']:.1f}",
        gap_text(row),
        difference_text(row["versus_default"]),
        guaranteed_text(row),
        difference_text(row["versus_single_best"]),
        "" if p is None else p_text(p),
        difference_text(row["above_hull"]),
        _milliseconds(row.get("milliseconds") or {}),
        " / ".join(f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in ratios.values()),
    ]


def gap_text(row: Mapping[str, Any]) -> str:
    """The closed gap with its interval, "undefined" where the oracle is no better than the single best.

    >>> gap_text({"closed_gap": 0.245, "closed_gap_ci": [0.2, 0.286]})
    '24.5% [20.0, 28.6]'
    """
    if row["closed_gap"] is None:
        return "undefined"
    interval = row["closed_gap_ci"]
    return f"{row['closed_gap']:.1%}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def difference_text(found: Mapping[str, Any]) -> str:
    """A difference of two accuracies in percentage points, with its interval.

    >>> difference_text({"value": 0.014, "interval": [0.009, 0.018]})
    '+1.4 [+0.9, +1.8]'
    """
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['value']:+.1f} [{low:+.1f}, {high:+.1f}]"


def guaranteed_text(row: Mapping[str, Any]) -> str:
    """How far from the default's accuracy a row is at least, by the label images, and whether the test images kept it.

    >>> guaranteed_text({"expected": {"guaranteed": -0.0082}, "guarantee": "held"})
    'at least -0.8: held'
    """
    least = (row["expected"] or {}).get("guaranteed")
    return "" if least is None or not row.get("learned", True) else f"at least {100 * least:+.1f}: {row['guarantee']}"


def p_text(p: float) -> str:
    """A p value with two digits, small ones as a bound.

    >>> p_text(0.0312), p_text(3e-13), p_text(1.0)
    ('0.031', '< 0.0001', '1')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, *rows]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([text[0], "|" + "---|" * len(header), *text[1:]])


def _milliseconds(found: Mapping[str, float]) -> str:
    return " / ".join(f"{ms:.1f}" for ms in found.values())
