"""Eight clients of single requests, alone and beside clients that post batches of 64 without pause.

    python -m benchmarks.fairness                 # a minute and a half
    python -m benchmarks.fairness --rounds 1 --seconds 2   # a try

All on the same server and with the same load (wrk, apt-get install wrk), in turns, so that what else the machine does meets
all alike. A client waits for its answer before it sends the next request. What is aimed at: beside one client of batches the
slowest hundredth of the single requests takes less than three times as long as alone.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import body, drain, load, server
from benchmarks.serving_accuracy import test_scenes
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import write_whole

AIM = 3.0
"""Times the slowest hundredth alone."""


@dataclass(frozen=True, kw_only=True)
class FairnessSettings:
    """How many clients there are, and for how long."""

    network: str = "matched"
    """As SERVING_NETWORK."""
    workers: int = 2
    """Processes of the server."""
    singles: int = 8
    """Clients of single requests."""
    batches: tuple[int, ...] = (1, 4)
    """Clients of batches beside them; each number is a row."""
    images: int = 64
    """Images of a batch."""
    share: int = 16
    """As SERVING_BATCH_SHARE."""
    rounds: int = 5
    """Times that every row is measured; the median counts."""
    seconds: float = 5.0
    """Of each measurement."""
    out: Path | None = None
    """JSON file for all numbers."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.seconds < 1:
            raise UserError(f"--rounds and --seconds must be at least 1, not {self.rounds} and {self.seconds:g}")


def fairness(settings: FairnessSettings) -> dict[str, Any]:
    """Measure; the result is JSON-ready: for each number of clients of batches its rounds and their medians."""
    files = test_scenes(settings.network, max(256, settings.images)).files
    singles = [body([data], "image") for data in files[:256]]
    starts = range(0, len(files) - settings.images + 1, settings.images)
    batches = [body(files[start : start + settings.images], "images") for start in starts]
    rounds: dict[int, list[dict[str, float]]] = {count: [] for count in (0, *settings.batches)}
    more = {"max_images": settings.images, "batch_share": settings.share}
    with server(settings.network, settings.workers, **more) as started:
        for part in range(-1, settings.rounds):
            for count, found in rounds.items():
                row = _beside(started.address, singles, batches, count, settings)
                if part >= 0:  # the first time graphs are opened, and counts for nobody
                    found.append(row)
                drain(started.address)
    rows: list[dict[str, Any]] = []
    for count, found in rounds.items():
        medians = {key: median(row[key] for row in found) for key in found[0]}
        times = [beside["p99_ms"] / alone["p99_ms"] for beside, alone in zip(found, rounds[0], strict=True)]
        rows.append({"clients_of_batches": count, "rounds": found, "p99_times": median(times)} | medians)
    return {"aim": AIM, "rows": rows}


def _beside(
    address: str, singles: list[bytes], batches: list[bytes], count: int, settings: FairnessSettings
) -> dict[str, float]:
    """One measurement of the single requests beside ``count`` clients of batches, which begin before and end after."""
    others: dict[str, float] = {"requests_per_second": 0.0, "failed": 0}
    page = f"{address}/v1/classify_batch"
    thread = threading.Thread(target=lambda: others.update(load(page, batches, settings.seconds + 2, count)))
    if count:
        thread.start()
        time.sleep(1)
    try:
        found = load(f"{address}/v1/classify", singles, settings.seconds, settings.singles)
    finally:
        if count:
            thread.join()
    return found | {"batches_per_second": others["requests_per_second"], "failed": found["failed"] + others["failed"]}


def main(settings: FairnessSettings) -> None:
    """Run, print the table and, if asked, the JSON line."""
    result = fairness(settings)
    print(
        f"{settings.singles} clients of single requests, {settings.workers} processes, medians of {settings.rounds} rounds"
    )
    print("clients of batches  single req/s  p50 ms  p99 ms  p99 to alone  batches/s  failed")
    for row in result["rows"]:
        print(
            f"{row['clients_of_batches']:>18}  {row['requests_per_second']:>12.0f}  {row['p50_ms']:>6.1f}  "
            f"{row['p99_ms']:>6.1f}  {row['p99_times']:>12.2f}  {row['batches_per_second']:>9.1f}  {row['failed']:>6.0f}"
        )
    beside = next((row for row in result["rows"] if row["clients_of_batches"] == 1), None)
    if beside is not None:
        met = "met" if beside["p99_times"] < AIM else "missed"
        print(f"aim, p99 beside one client of batches below {AIM:g} times p99 alone: {met}")
    if settings.out is not None:
        write_whole(settings.out, json.dumps(result, indent=1).encode())
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, FairnessSettings, __doc__ or "")
