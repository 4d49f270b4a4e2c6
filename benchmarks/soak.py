"""Ten minutes at twice what the service can do: nothing that was accepted is lost, and memory stays where it was.

    python -m benchmarks.soak                     # --seconds 60 for a short one

Measures the capacity first (as fast as 64 connections get answers), then offers twice as many requests a second, with wrk
(apt-get install wrk). Every answer must be 200 or 503 with Retry-After; every connection must get one.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import psutil

from benchmarks.load import body, load, metric, offer, server
from benchmarks.serving_accuracy import test_scenes
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import write_whole

_FIRST = 15.0
"""Seconds of the round that finds out how long to pause."""
_WATCH = 5.0
"""Seconds between two looks at the memory."""


@dataclass(frozen=True, kw_only=True)
class SoakSettings:
    """How long the soak is, and how many requests it offers."""

    network: str = "matched"
    """As SERVING_NETWORK."""
    seconds: float = 600.0
    """Seconds of the soak."""
    times: float = 2.0
    """How many times the capacity is offered."""
    connections: int = 512
    """Connections that offer the requests."""
    workers: int = 2
    """Processes of the server."""
    max_queue: int = 64
    """Images that may wait in each process."""
    out: Path | None = None
    """JSON file for all numbers."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        if self.seconds < 10:
            raise UserError(f"--seconds must be at least 10, not {self.seconds:g}")


def soak(settings: SoakSettings) -> dict[str, Any]:
    """Run the soak; the result is JSON-ready."""
    bodies = [body([data], "image") for data in test_scenes(settings.network, 256).files]
    with server(settings.network, settings.workers) as started:
        capacity = load(f"{started.address}/v1/classify", bodies, 10, 64)["requests_per_second"]
    memory: list[float] = []
    with server(settings.network, settings.workers, max_queue=settings.max_queue) as started:
        url = f"{started.address}/v1/classify"
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(memory, ended))
        watcher.start()
        offered = settings.times * capacity
        try:
            # A connection offers its next request a pause after its answer; how long that takes, a first round tells.
            cycle = settings.connections / offered
            first = offer(url, bodies, cycle, _FIRST, settings.connections)
            pause = max(0.0, 2 * cycle - settings.connections / first["offered"])
            memory.clear()
            counted = offer(url, bodies, pause, settings.seconds, settings.connections)
        finally:
            ended.set()
            watcher.join()
        alive = httpx.get(f"{started.address}/readyz").status_code == 200
        count = _counted_by(started.address)
    return {
        "capacity": capacity,
        "aimed": offered,
        **counted,
        "answered_by_server": count - first["answered"],
        "alive": alive,
        "memory_mib": {"minutes": _by_minute(memory), "all": [round(m) for m in memory]},
    }


def _by_minute(memory: list[float]) -> list[int]:
    """MiB, the mean of each minute."""
    minute = round(60 / _WATCH)
    return [round(fmean(memory[at : at + minute])) for at in range(0, len(memory), minute)]


def _watch(memory: list[float], ended: threading.Event) -> None:
    """MiB of all worker processes, every five seconds."""
    while not ended.wait(_WATCH):
        total = 0
        for process in psutil.Process().children(recursive=True):
            try:
                if "_bentoml_impl.worker.service" in " ".join(process.cmdline()):
                    total += process.memory_full_info().uss
            except psutil.Error:
                continue
        memory.append(total / 2**20)


def _counted_by(address: str) -> int:
    time.sleep(1)
    return int(metric(address, 'serving_requests_total{page="/v1/classify",status="200"}'))


def main(settings: SoakSettings) -> None:
    """Run, print what came out and, if asked, the JSON line."""
    result = soak(settings)
    memory = result["memory_mib"]
    print(
        f"capacity {result['capacity']:.0f} req/s, offered {result['offered']:.0f} req/s for {result['seconds']:.0f} s:\n"
        f"  answered {result['answered']:,} ({result['answered'] / result['seconds']:.0f}/s), refused with Retry-After "
        f"{result['refused']:,}, other answers {result['others']}, connections without an answer {result['lost']}\n"
        f"  the server counted {result['answered_by_server']:,} answered; MiB by minute: "
        f"{' '.join(map(str, memory['minutes']))}"
    )
    if settings.out is not None:
        write_whole(settings.out, json.dumps(result, indent=1).encode())
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, SoakSettings, __doc__ or "")
