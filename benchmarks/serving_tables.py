"""The tables of ``python -m benchmarks.serving``."""

from __future__ import annotations

from typing import Any

from oracle.reporting.text import aligned

_HEADER = [
    "server, policy",
    "accuracy",
    "points to (a)",
    "MMACs",
    "unlike offline",
    "single images/s",
    "p50, p99 ms",
    "× (a)",
    "batch images/s",
    "p50, p99 ms",
    "× (a)",
    "CPU ms an image: single, batch",
]


def tables(result: dict[str, Any]) -> str:
    """Everything that was measured, as text."""
    parts = [f"{group['name']}\n\n{aligned(_HEADER, [_row(row) for row in group['rows']])}" for group in result["groups"]]
    workers = [
        [row["server"], " ".join(f"{mib:.0f}" for mib in row["worker_mib"])]
        for group in result["groups"]
        for row in group["rows"]
        if row["first"]
    ]
    parts.append(aligned(["server", "MiB of each worker, after all loads"], workers))
    if result["mixing"]:
        parts.append(_mixing(result["mixing"]))
    if result["choosing"]:
        parts.append(_choosing(result["choosing"]))
    return "\n\n".join(parts)


def _row(row: dict[str, Any]) -> list[str]:
    found = [
        f"{row['server']}, {row['policy']}",
        f"{row['accuracy']:.2%}",
        "" if "points" not in row else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*row["points"]),
        f"{1000 * row['gmacs']:.1f}",
        ""
        if "other_prediction" not in row
        else str(max(row[f"other_{k}"] for k in ("prediction", "configuration", "gmacs"))),
    ]
    for kind in ("single", "batch"):
        load, ratio = row["load"][kind], row["speed_up"][kind]
        found += [f"{load['images_per_second']:.0f}", f"{load['p50_ms']:.0f}, {load['p99_ms']:.0f}"]
        found.append(f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]")
    found.append(", ".join(f"{row['load'][kind]['cpu_ms_an_image']:.2f}" for kind in ("single", "batch")))
    return found


def _mixing(rows: list[dict[str, Any]]) -> str:
    header = ["engine", "configurations in a batch of 16", "ms", "ms, uniform batches", "price", "of their MACs run"]
    return aligned(
        header,
        [
            [
                row["runtime"],
                str(row["configurations"]),
                f"{row['milliseconds']:.1f}",
                f"{row['uniform_milliseconds']:.1f}",
                f"{row['price']:.2f}",
                f"{row['gmacs'] / row['gmacs_alone']:.2f}",
            ]
            for row in rows
        ],
    )


def _choosing(rows: list[dict[str, Any]]) -> str:
    header = ["policy", "images in the batch", "ms an image", "of it choosing", "of its MACs"]
    return aligned(
        header,
        [
            [
                row["policy"],
                str(row["batch"]),
                f"{row['milliseconds_an_image']:.2f}",
                f"{row['time_share']:.0%}",
                f"{row['gmacs_share']:.0%}",
            ]
            for row in rows
        ],
    )
