"""What a shadow policy takes from live requests: the same load on a server without one, and with one on a share of images.

    python -m benchmarks.shadow                   # four minutes
    python -m benchmarks.shadow --rounds 1 --seconds 2    # a try

All servers run at once, and are loaded in turns (wrk, apt-get install wrk), so that what else the machine does meets all
alike; the ratios are taken within a round. Many connections leave the shadow nothing, so it sheds; one leaves it time.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import PORT, Server, body, drain, load, metric, server
from benchmarks.serving import speed_up
from benchmarks.serving_accuracy import test_scenes
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import write_whole

_OUTCOMES = ("answered", "shed")


@dataclass(frozen=True, kw_only=True)
class ShadowSettings:
    """Which shadow, on which shares, under which loads."""

    network: str = "matched"
    """As SERVING_NETWORK."""
    policy: str = "default"
    """As SERVING_SHADOW_POLICY."""
    shares: tuple[float, ...] = (0.1, 1.0)
    """As SERVING_SHADOW_SHARE, each on a server of its own beside the one without a shadow."""
    connections: tuple[int, ...] = (8, 1)
    """Of a load; each number is a part of the table."""
    workers: int = 2
    """Processes of each server."""
    rounds: int = 5
    """Times that every row is measured."""
    seconds: float = 5.0
    """Of each measurement."""
    out: Path | None = None
    """JSON file for all numbers."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.seconds < 1:
            raise UserError(f"--rounds and --seconds must be at least 1, not {self.rounds} and {self.seconds:g}")
        if not all(0 < share <= 1 for share in self.shares):
            raise UserError(f"--shares must be above 0 and at most 1, not {self.shares}")


def shadow(settings: ShadowSettings) -> dict[str, Any]:
    """Measure; the result is JSON-ready: rows by connections and share (0: no shadow), with their rounds and medians."""
    bodies = [body([data], "image") for data in test_scenes(settings.network, 256).files]
    rounds: dict[tuple[int, float], list[dict[str, float]]] = {
        (count, share): [] for count in settings.connections for share in (0.0, *settings.shares)
    }
    with ExitStack() as rest:
        servers = {0.0: rest.enter_context(server(settings.network, settings.workers))}
        for number, share in enumerate(settings.shares, 1):
            options: dict[str, Any] = {"shadow_policy": settings.policy, "shadow_share": share}
            started = server(settings.network, settings.workers, port=PORT + number, **options)
            servers[share] = rest.enter_context(started)
        for part in range(-1, settings.rounds):
            for (count, share), found in rounds.items():
                row = _loaded(servers[share], bodies, count, settings)
                if part >= 0:  # the first time graphs are opened, and counts for nobody
                    found.append(row)
    rows: list[dict[str, Any]] = []
    for (count, share), found in rounds.items():
        medians = {key: median(row[key] for row in found) for key in found[0]}
        rates, alone = ([row["requests_per_second"] for row in each] for each in (found, rounds[count, 0.0]))
        rows.append({"connections": count, "share": share, "rounds": found, "times": speed_up(rates, alone)} | medians)
    return {"policy": settings.policy, "rows": rows}


def _loaded(server: Server, bodies: list[bytes], connections: int, settings: ShadowSettings) -> dict[str, float]:
    """One measurement: what wrk found, CPU milliseconds a request, and what became of the images for the shadow."""
    before, cpu = _shadowed(server, settings.policy), server.cpu_seconds()
    found = load(f"{server.address}/v1/classify", bodies, settings.seconds, connections)
    spent = server.cpu_seconds() - cpu
    drain(server.address)
    after = _shadowed(server, settings.policy)
    while (later := _rested(server, settings.policy)) != after:  # what waits for it would cost the next one
        after = later
    requests = found["requests_per_second"] * settings.seconds
    return found | {
        "cpu_ms_a_request": 1000 * spent / max(requests, 1),
        **{name: after[name] - before[name] for name in _OUTCOMES},
    }


def _rested(server: Server, policy: str) -> dict[str, float]:
    time.sleep(1)
    return _shadowed(server, policy)


def _shadowed(server: Server, policy: str) -> dict[str, float]:
    """Images that the shadow answered and shed so far."""
    name = 'serving_shadow_images_total{{outcome="{}",shadow="{}"}}'
    return {outcome: metric(server.address, name.format(outcome, policy)) for outcome in _OUTCOMES}


def main(settings: ShadowSettings) -> None:
    """Run, print the table and, if asked, the JSON line."""
    result = shadow(settings)
    print(
        f"single requests, {settings.workers} processes, shadow {settings.policy}, medians of {settings.rounds} rounds; "
        "times: req/s to those without a shadow, lowest and highest of the rounds"
    )
    print("connections  share   req/s  times (low, high)    p50 ms  p99 ms  CPU ms each  shadow answered     shed  failed")
    for row in result["rows"]:
        times = "{median:.2f} ({low:.2f}, {high:.2f})".format(**row["times"])
        print(
            f"{row['connections']:>11}  {row['share']:>5.0%}  {row['requests_per_second']:>6.0f}  {times:<17}  "
            f"{row['p50_ms']:>8.1f}  {row['p99_ms']:>6.1f}  {row['cpu_ms_a_request']:>11.2f}  {row['answered']:>15.0f}  "
            f"{row['shed']:>7.0f}  {row['failed']:>6.0f}"
        )
    if settings.out is not None:
        write_whole(settings.out, json.dumps(result, indent=1).encode())
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, ShadowSettings, __doc__ or "")
