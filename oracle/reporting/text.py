"""Numbers and tables as text, for terminals and Markdown."""

from __future__ import annotations

from typing import Any


def percent(entry: dict[str, Any]) -> str:
    """A share with its interval, in percent.

    >>> percent({"value": 0.5, "interval": [0.4, 0.6]})
    '50.0 [40.0, 60.0]'
    """
    low, high = entry["interval"]
    return f"{100 * entry['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def points(entry: Any) -> str:
    """A difference of shares in percentage points with its interval."""
    if entry["interval"] is None:
        return f"{100 * entry['value']:+.1f}"
    low, high = entry["interval"]
    return f"{100 * entry['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def number(entry: Any, digits: int = 2) -> str:
    """A number with its interval; a dash where it is undefined."""
    if entry["value"] is None:
        return "—"
    if entry["interval"] is None:
        return f"{entry['value']:.{digits}f}"
    low, high = entry["interval"]
    return f"{entry['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def aligned(header: list[str], rows: list[list[str]]) -> str:
    """A table for a terminal."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table for Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
