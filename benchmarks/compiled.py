"""What compiling is worth below HTTP: python -m benchmarks.compiled --network matched        # ten minutes on two cores

Milliseconds an image, by images a batch, of the default in one graph, of the default behind a look at the stem, and of the
cascade at its efficiency point, for every runtime and precision beside the eager engine; then the price of mixing
configurations in a batch of 16, and the most that holding deferred images for the next batch could save. All in turns in one
process, on nothing but noise for the default and on test images for the cascade, whose deferrals are real ones.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

import dynamic
from dynamic.command import run_command
from dynamic.compiled.compiling import compile_network
from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.needs import Look, Needs
from dynamic.compiled.runtimes import Precision, RuntimeName
from dynamic.compiled.session import CompiledSession
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.network import DynamicNetwork
from dynamic.resources import keep_freed_memory
from dynamic.session import Session
from oracle.reporting.text import aligned
from oracle.runs import Run
from selector.compiling.graphs import images_of
from selector.observation.features import pooled
from selector.observation.images import Images
from selector.policies import load_policies
from selector.policies.base import Policy
from selector.policies.objectives import OperatingPoint
from selector.shipped import SHIPPED

KINDS: tuple[tuple[Precision, RuntimeName], ...] = (
    ("float32", "onnxruntime"),
    ("float32", "openvino"),
    ("bfloat16", "openvino"),
    ("int8", "onnxruntime"),
    ("int8", "openvino"),
)
MIXED = 16
"""Images, and most configurations, of the batch whose configurations are mixed."""

CUT = {1: 1.15, 32: 1.05}
"""Times the whole graph's that the default may take behind a look at the stem, by images a batch."""

PRICE = {4: 1.3, MIXED: 2.0}
"""Times the mean of the uniform batches that a mixed one may take, by configurations."""


@dataclass(frozen=True, kw_only=True)
class CompiledSettings:
    """What is timed."""

    network: str = "matched"
    """As SERVING_NETWORK: a shipped run's name or a run's folder, with policies."""
    batches: tuple[int, ...] = (1, 4, 8, 16, 32)
    """Images a batch."""
    rounds: int = 15
    """How often each is timed, in turns."""
    threads: int = 1
    """Of the runtimes and of the eager engine; a worker of the service has one where it shares the cores with others."""
    out: Path | None = None
    """JSON file for the numbers."""


def main(settings: CompiledSettings) -> None:
    """Compile, measure, print the tables."""
    keep_freed_memory()
    run = Run.open(SHIPPED.get(settings.network, Path(settings.network)))
    policies = {policy.name: policy for policy in load_policies(run)}
    if "cascade" not in policies:
        raise UserError(f"{settings.network} has no cascade: train its policies first (python -m selector.train)")
    source = images_of(run)
    label, test = (np.flatnonzero(source.splits == split) for split in ("label", "test"))
    calibration = source.load(label[:: max(1, len(label) // 128)][:128]).images.numpy()
    images = source.load(test[:: max(1, len(test) // 256)][:256]).images.numpy()
    with tempfile.TemporaryDirectory() as name:
        sides = _compiled(run, policies["cascade"], calibration, Path(name), settings.threads)
        found: dict[str, Any] = {
            "network": settings.network,
            "default": _by_batch(run, policies, sides, images, settings),
            "mixed": _mixed(run, Path(name), settings),
        }
    found["waiting"] = _waiting(found["default"])
    _print(found)
    if settings.out is not None:
        write_whole(settings.out, json.dumps(found, indent=1).encode())


class _View:
    """The images of a session as a cascade sees them: answers, nothing else."""

    def __init__(self, session: Session | CompiledSession, portfolio: Sequence[Configuration], count: int) -> None:
        self._session, self.portfolio, self._count = session, portfolio, count
        self.asked: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count

    def look(self, column: int, rows: np.ndarray | None = None) -> np.ndarray:
        rows = np.arange(self._count) if rows is None else rows
        self.asked[column] = self.asked.get(column, 0) + len(rows)
        logits = np.asarray(self._session.logits(self.portfolio[column], rows))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _compiled(
    run: Run, cascade: Policy, calibration: np.ndarray, folder: Path, threads: int | None
) -> dict[str, CompiledNetwork]:
    network = run.fast_network()
    portfolio = tuple(map(Configuration.parse, cascade.portfolio_))
    steps = cascade._state().facts["steps"]
    ladders = tuple(dict.fromkeys(tuple(portfolio[column] for column in step["columns"]) for step in steps))
    needs = Needs(ladders=ladders, looks=(Look(kind="pooled", layer=0, configuration=network.default),))
    made: dict[str, CompiledNetwork] = {}
    for precision in dict.fromkeys(precision for precision, _ in KINDS):
        compile_network(
            network,
            folder / precision,
            configurations=portfolio,
            resolution=run.record.resolution,
            needs=needs,
            looks={"pooled": pooled},
            precision=precision,
            calibration=calibration if precision == "int8" else None,
            threads=threads,
        )
    for precision, runtime in KINDS:
        made[f"{runtime} {precision}"] = CompiledNetwork.open(folder / precision, runtime, threads)
    return made


def _by_batch(
    run: Run,
    policies: Mapping[str, Policy],
    sides: Mapping[str, CompiledNetwork],
    images: np.ndarray,
    settings: CompiledSettings,
) -> list[dict[str, Any]]:
    """Milliseconds an image of each side, by images a batch."""
    cascade, eager = policies["cascade"], run.fast_network(packed=True)
    portfolio = tuple(map(Configuration.parse, cascade.portfolio_))
    default = policies["default"].points_
    point = cascade.point("efficiency", default[0].accuracy, default[0].macs) if default else cascade.points_[-1]
    dial = cast(OperatingPoint, point).dial
    rows = []
    for count in settings.batches:
        batches = [images[start : start + count] for start in range(0, len(images) - count + 1, count)]
        jobs: dict[str, Callable[[np.ndarray], object]] = {}
        asked: list[dict[int, int]] = []

        def stepped(session: Session | CompiledSession, batch: np.ndarray, asked: list[dict[int, int]] = asked) -> None:
            view = _View(session, portfolio, len(batch))
            chosen = cascade.decide(cast(Images, view), dial)
            session.mixed([portfolio[column] for column in chosen])
            asked.append(view.asked)

        def stepped_compiled(network: CompiledNetwork, batch: np.ndarray, step: Callable[..., None] = stepped) -> None:
            step(CompiledSession(network, batch), batch)

        def looked(network: CompiledNetwork, batch: np.ndarray) -> None:
            session = CompiledSession(network, batch)
            session.look("pooled", 0, network.default, np.arange(len(batch)))
            session.mixed([network.default] * len(batch))

        def whole(network: CompiledNetwork, batch: np.ndarray) -> None:
            CompiledSession(network, batch).mixed([network.default] * len(batch))

        for name, network in sides.items():
            jobs[f"{name}, whole"] = partial(whole, network)
            jobs[f"{name}, look"] = partial(looked, network)
            jobs[f"{name}, cascade"] = partial(stepped_compiled, network)
        jobs["eager, whole"] = lambda batch: eager(torch.from_numpy(batch), eager.default)
        jobs["eager, cascade"] = lambda batch: stepped(Session(eager, torch.from_numpy(batch)), batch)
        times = _in_turns(jobs, batches, settings)
        shares = _shares(asked, cascade, dial)
        for name, own in times.items():
            side, what = name.split(", ")
            rows.append({"images": count, "side": side, "what": what, **_spread(own, count), "deferred": shares})
    return rows


def _shares(asked: Sequence[Mapping[int, int]], cascade: Policy, dial: float) -> list[float]:
    """Of all images, those that each later rung of the ladder answered."""
    total: dict[int, int] = {}
    for one in asked:
        for column, count in one.items():
            total[column] = total.get(column, 0) + count
    counts = list(total.values())
    return [count / counts[0] for count in counts[1:]]


def _mixed(run: Run, folder: Path, settings: CompiledSettings) -> list[dict[str, Any]]:
    """What a batch of 16 costs whose images run 1, 4 or 16 configurations, against the mean of the uniform batches."""
    network: DynamicNetwork = run.network.for_inference()
    space, side = dynamic.space("stride", run.network), run.record.resolution
    limit = network.macs(network.default, side)
    affordable = sorted(c for c in space if network.macs(c, side) <= limit)
    affordable.sort(key=lambda configuration: network.macs(configuration, side))
    chosen = [affordable[place] for place in np.linspace(0, len(affordable) - 1, MIXED).round().astype(int)]
    compiled = compile_network(
        network, folder / "mixed", configurations=chosen, resolution=side, needs=Needs(), looks={}, threads=settings.threads
    )
    batch = np.random.default_rng(0).standard_normal((MIXED, network.channels, side, side), dtype=np.float32)
    wanted = {
        count: [chosen[place] for place in np.linspace(0, MIXED - 1, count).round().astype(int)] * (MIXED // count)
        for count in (1, 4, MIXED)
    }
    lists: list[list[Configuration]] = [[configuration] * MIXED for configuration in chosen] + list(wanted.values())
    jobs = {
        str(place): lambda batch, asked=asked: CompiledSession(compiled, batch).mixed(asked)
        for place, asked in enumerate(lists)
    }
    times = _in_turns(jobs, [batch], settings)
    uniform = {c: float(np.median(times[str(place)])) for place, c in enumerate(chosen)}
    found = []
    for place, (count, asked) in enumerate(wanted.items()):
        own, mean = times[str(MIXED + place)], float(np.mean([uniform[configuration] for configuration in asked]))
        found.append({"configurations": count, **_spread(own, MIXED), "price": float(np.median(own)) / mean})
    return found


def _in_turns(
    jobs: Mapping[str, Callable[[np.ndarray], object]], batches: Sequence[np.ndarray], settings: CompiledSettings
) -> dict[str, list[float]]:
    """Milliseconds of every job, each round on another batch."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    threads = torch.get_num_threads()
    for turn in range(-2, settings.rounds):
        for name, job in jobs.items():
            # The eager engine's threads spin when they wait, and would starve the runtimes'.
            torch.set_num_threads(settings.threads if name.startswith("eager") else 1)
            batch = batches[turn % len(batches)]
            time.sleep(0.01)  # until the threads of the job before have stopped spinning
            began = time.perf_counter()
            with torch.inference_mode():
                job(batch)
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - began))
    torch.set_num_threads(threads)
    return times


def _spread(times: Sequence[float], images: int) -> dict[str, float]:
    low, middle, high = np.percentile(times, [10, 50, 90]) / images
    return {"milliseconds": float(middle), "low": float(low), "high": float(high), "least": min(times) / images}


def _waiting(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The most that deferred images could gain by waiting until 32 of them are together.

    What an image costs on the second rung falls with company from the cost in a batch of its expected number of deferred
    images to the cost in the largest batch; weighted by the share that is deferred, that is all there is to gain.
    """
    found = []
    for side in dict.fromkeys(row["side"] for row in rows):
        whole = {row["images"]: row["least"] for row in rows if row["side"] == side and row["what"] == "whole"}
        sizes = sorted(whole)
        for row in (row for row in rows if row["side"] == side and row["what"] == "cascade" and row["deferred"]):
            company = max(row["images"] * row["deferred"][0], 1.0)
            now = float(np.interp(company, sizes, [whole[size] for size in sizes]))
            gain = row["deferred"][0] * max(now - whole[sizes[-1]], 0.0)
            found.append({"side": side, "images": row["images"], "gain": gain, "share": gain / row["least"]})
    return found


def _print(found: Mapping[str, Any]) -> None:
    rows = found["default"]
    batches = list(dict.fromkeys(row["images"] for row in rows))
    table = []
    for side, what in dict.fromkeys((row["side"], row["what"]) for row in rows):
        own = {row["images"]: row for row in rows if (row["side"], row["what"]) == (side, what)}
        table.append(
            [side, what, *(f"{own[n]['milliseconds']:.2f} ({own[n]['low']:.2f}-{own[n]['high']:.2f})" for n in batches)]
        )
    print("milliseconds an image, median (tenth to ninetieth percentile)")
    print(aligned(["", "", *(f"{n} images" for n in batches)], table))
    print(f"\nprice of mixing in a batch of {MIXED}, onnxruntime float32")
    mixed = [[str(row["configurations"]), f"{row['milliseconds']:.2f}", f"{row['price']:.2f}"] for row in found["mixed"]]
    print(aligned(["configurations", "ms an image", "times the mean"], mixed))
    print("\nmost that deferred images could gain by waiting for company")
    waiting = [[row["side"], str(row["images"]), f"{row['gain']:.3f}", f"{row['share']:.1%}"] for row in found["waiting"]]
    print(aligned(["", "images", "ms an image", "of the cascade"], waiting))
    print("\naims, onnxruntime float32, by medians")
    print("\n".join(_verdicts(found)))


def _verdicts(found: Mapping[str, Any]) -> list[str]:
    """Which aims are met.

    >>> rows = [{"images": 1, "side": "onnxruntime float32", "what": what, "milliseconds": ms} for what, ms in
    ...         (("whole", 1.0), ("look", 1.2))]
    >>> print(*_verdicts({"default": rows, "mixed": [{"configurations": 4, "price": 1.25}]}), sep="\\n")
    the default behind a look, 1 images: 1.20 times the whole graph, at most 1.15: missed
    4 configurations mixed: 1.25 times the mean of the uniform batches, at most 1.30: met
    """
    plain = {(r["what"], r["images"]): r["milliseconds"] for r in found["default"] if r["side"] == "onnxruntime float32"}
    prices = {row["configurations"]: row["price"] for row in found["mixed"]}
    lines = [
        (f"the default behind a look, {n} images", plain["look", n] / plain["whole", n], "the whole graph", most)
        for n, most in CUT.items()
        if ("look", n) in plain
    ]
    lines += [
        (f"{count} configurations mixed", prices[count], "the mean of the uniform batches", most)
        for count, most in PRICE.items()
        if count in prices
    ]
    return [
        f"{what}: {times:.2f} times {of}, at most {most:.2f}: {'met' if times <= most else 'missed'}"
        for what, times, of, most in lines
    ]


if __name__ == "__main__":
    run_command(main, CompiledSettings, __doc__ or "")
