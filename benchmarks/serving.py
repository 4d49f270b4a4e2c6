"""The service under load: requests a second, latency, accuracy, CPU time, against the static network people would serve.

    python -m benchmarks.serving                                  # the shipped network
    python -m benchmarks.serving --network runs/full-width --static-network runs/full-width-plain --images 3000
    python -m benchmarks.serving --images 64 --seconds 1 --rounds 1 --runtimes onnxruntime --precisions float32   # a try

Every comparison is on the same ``bentoml serve``, the same front door and the same load (wrk, apt-get install wrk):

    (a)        the default configuration alone, batch norms folded, as one float32 session of ONNX Runtime (SERVING_STATIC)
    static     the same in another runtime or precision; also the run's own default where --static-network names another
    eager      the run and its policies in PyTorch (SERVING_RUNTIME=torch)
    compiled   the run and its policies as graphs

Servers of one comparison run side by side and are loaded in turns, so that what else the machine does meets all alike; a
speed-up is the median over the rounds of the ratio to (a) within a round. Accuracy: the run's test scenes as PNG files
through /v1/classify_batch; in float32 compared image by image with the eager engine without a server.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.batches import mixed_batches, selector_shares
from benchmarks.load import PORT, Server, body, drain, load, rates, server
from benchmarks.serving_accuracy import (
    TestScenes,
    accuracy,
    predictions,
    test_scenes,
    through_http,
    unlike_offline,
    wishes,
)
from benchmarks.serving_tables import tables
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.resources import keep_freed_memory
from serving.inference.deployment import Deployment
from serving.inference.finding import folder_of
from serving.inference.opening import open_deployment
from serving.settings import ServingSettings

KINDS = (("single", "classify"), ("batch", "classify_batch"))
"""Of requests, and the pages they go to."""


@dataclass(frozen=True, kw_only=True)
class ServingBenchmarkSettings:
    """Which network is loaded, and how."""

    network: str = "matched"
    """As SERVING_NETWORK: a shipped run, or the folder of a run on fashion-scenes."""
    static_network: str = ""
    """A run whose static default is (a), where that is another network than the run's own default: of people's own network
    before it was trained for many configurations, say."""
    precisions: str = "float32,bfloat16,int8"
    """Comma-separated."""
    runtimes: str = "onnxruntime,openvino"
    """Comma-separated; bfloat16 is left out for ONNX Runtime, which has none on CPUs."""
    images: int = 10_000
    """Test images whose answers are compared."""
    policies: str = "cascade,correctness,stagewise,head"
    """Comma-separated, or all; each at its efficiency operating point, in float32 by ONNX Runtime, beside default and
    cheapest. cascade:0.4 is the cascade at no more than 0.4 times the default's multiply-accumulates."""
    elsewhere: str = "default,cascade"
    """The policies in other runtimes and precisions."""
    batch: int = 32
    """Images of a batch request."""
    seconds: float = 6.0
    """Seconds of each load; a good many times what a batch request takes."""
    rounds: int = 3
    """Loads of each policy and of (a), taken in turns."""
    connections: int = 16
    """Requests under way at a time."""
    workers: int = 2
    """Processes of each server; they share the cores."""
    fit_images: int = 2000
    """Label images that policies are fitted on, and test images that they are judged on, where the run is not compiled in a
    precision yet (python -m selector.compile takes all)."""
    eager: bool = True
    """Whether the eager engine is compared too."""
    offline: bool = True
    """Whether float32 answers are compared with the eager engine's without a server."""
    below: bool = True
    """Whether batches are timed without a server too: mixing and choosing."""
    out: Path | None = None
    """JSON file for all numbers, rewritten after each comparison."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A server to be compared: what it serves and how.

    Attributes:
        name: in tables.
        network: as SERVING_NETWORK.
        policies: that are asked of it.
        settings: others of the service, by name.
    """

    name: str
    network: str
    policies: tuple[str, ...]
    settings: dict[str, Any]


def comparisons(settings: ServingBenchmarkSettings, policies: Sequence[str]) -> list[tuple[str, list[Variant]]]:
    """By name, the servers that run side by side; (a) is the first of each.

    Args:
        settings: of the benchmark.
        policies: of the run.
    """
    wanted = list(policies) if settings.policies == "all" else _names(settings.policies)
    main = tuple(p for p in dict.fromkeys(["default", *wanted, "cheapest"]) if p.partition(":")[0] in policies)
    elsewhere = tuple(p for p in _names(settings.elsewhere) if p.partition(":")[0] in policies)
    people = settings.static_network or settings.network

    def static(network: str, runtime: str, precision: str, name: str) -> Variant:
        facts: dict[str, Any] = {"static": True, "runtime": runtime, "precision": precision}
        return Variant(name=name, network=network, policies=("default",), settings=facts)

    first = static(people, "onnxruntime", "float32", "(a) static, onnxruntime float32")
    found = []
    for precision in _names(settings.precisions):
        for runtime in _names(settings.runtimes):
            if (runtime, precision) == ("onnxruntime", "bfloat16"):
                continue
            kind, servers = f"{runtime} {precision}", [first]
            if kind != "onnxruntime float32":
                servers.append(static(people, runtime, precision, f"static, {kind}"))
            if people != settings.network:
                servers.append(static(settings.network, runtime, precision, f"static of the run, {kind}"))
            asked = main if kind == "onnxruntime float32" else elsewhere
            facts: dict[str, Any] = {"runtime": runtime, "precision": precision}
            servers.append(Variant(name=f"compiled, {kind}", network=settings.network, policies=asked, settings=facts))
            found.append((kind, servers))
    if settings.eager:
        facts = {"runtime": "torch"}
        eager = Variant(name="eager, torch float32", network=settings.network, policies=elsewhere, settings=facts)
        found.append(("torch float32", [first, eager]))
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running server and a policy that is asked of it."""

    variant: Variant
    server: Server
    policy: str
    asked: dict[str, Any]


def loads(
    settings: ServingBenchmarkSettings, files: Sequence[bytes], targets: Sequence[Target]
) -> list[dict[str, list[dict[str, float]]]]:
    """Of each target, by kind of request, what every round measured; the rounds go through the targets in turns."""
    measured: list[dict[str, list[dict[str, float]]]] = [{kind: [] for kind, _ in KINDS} for _ in targets]
    progress = tqdm(total=settings.rounds * len(targets) * 2, desc="load", unit="load", file=sys.stderr)
    for _ in range(settings.rounds):
        for target, found in zip(targets, measured, strict=True):
            starts = range(0, min(len(files), 16 * settings.batch) - settings.batch + 1, settings.batch)
            parts = [files[start : start + settings.batch] for start in starts]
            bodies = {
                "single": [body([data], "image", **target.asked) for data in files[:256]],
                "batch": [body(part, "images", **target.asked) for part in parts],
            }
            for kind, page in KINDS:
                with ThreadPoolExecutor(1) as pool:
                    counted = pool.submit(rates, target.server, settings.seconds)
                    url = f"{target.server.address}/v1/{page}"
                    seen = load(url, bodies[kind], settings.seconds, settings.connections)
                found[kind].append(seen | counted.result())
                drain(target.server.address)
                progress.update()
    progress.close()
    return measured


def _median(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The round of the median rate, with the rates of all."""
    found = [r["images_per_second"] for r in rounds]
    return rounds[int(np.argsort(found)[len(found) // 2])] | {"rounds": found}


def speed_up(rates: Sequence[float], static: Sequence[float]) -> dict[str, float]:
    """How many times as fast as the static network: of the ratios within a round, the median and the two ends.

    Within a round, since a machine that others share too is not as fast in every round.

    >>> speed_up([20.0, 30.0, 40.0], [10.0, 10.0, 40.0])
    {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    ratios = np.divide(rates, static)
    return {"median": float(np.median(ratios)), "low": float(ratios.min()), "high": float(ratios.max())}


def compare(
    settings: ServingBenchmarkSettings, variants: Sequence[Variant], scenes: TestScenes, eager: Deployment
) -> list[dict[str, Any]]:
    """Start the servers, ask them everything, load them in turns; a row for each policy, (a)'s first."""
    with ExitStack() as running:
        targets = []
        for place, variant in enumerate(variants):
            _make_graphs(settings, variant)
            started = server(variant.network, settings.workers, port=PORT + place, **variant.settings)
            opened = running.enter_context(started)
            for policy in variant.policies:
                asked = wishes(policy, eager.macs(eager.default) / 1e9)
                targets.append(Target(variant=variant, server=opened, policy=policy, asked=asked))
        answers = [through_http(t.server.address, scenes.files, t.asked, settings.batch) for t in targets]
        measured = loads(settings, scenes.files, targets)
        memory = [target.server.memory() for target in targets]
    baseline = predictions(answers[0]) == scenes.labels
    rows = []
    for place, (target, found) in enumerate(zip(targets, measured, strict=True)):
        row: dict[str, Any] = {"server": target.variant.name, "policy": target.policy, "worker_mib": memory[place]}
        row["first"] = target.policy == target.variant.policies[0]
        row |= accuracy(answers[place], scenes, baseline if place else None)
        plain = target.variant.name.endswith("float32") and not target.variant.settings.get("static")
        if settings.offline and plain:
            row |= unlike_offline(eager, scenes, answers[place], target.asked)
        row["load"] = {kind: _median(rounds) for kind, rounds in found.items()}
        row["speed_up"] = {
            kind: speed_up([r["images_per_second"] for r in rounds], [r["images_per_second"] for r in measured[0][kind]])
            for kind, rounds in found.items()
        }
        rows.append(row)
    return rows


def _make_graphs(settings: ServingBenchmarkSettings, variant: Variant) -> None:
    """Before the clock runs for others: compiling takes both cores."""
    if variant.settings["runtime"] == "torch":
        return
    wanted = ServingSettings(network=variant.network, device="cpu", **variant.settings)
    try:
        open_deployment(wanted)
    except UserError as error:
        if wanted.static or wanted.precision == "float32":
            raise
        print(f"{error}: doing that with {settings.fit_images} images", file=sys.stderr)
        command = [sys.executable, "-m", "selector.compile", str(folder_of(wanted)), "--precision", wanted.precision]
        command += ["--runtime", wanted.runtime, "--images", str(settings.fit_images)]
        done = subprocess.run(command, stdout=sys.stderr)
        if done.returncode:
            raise UserError(f"{variant.network} was not compiled in {wanted.precision}") from error


def benchmark(settings: ServingBenchmarkSettings) -> dict[str, Any]:
    """Run the whole benchmark; the result is JSON-ready."""
    if shutil.which("wrk") is None:
        raise UserError("wrk is not installed: apt-get install wrk")
    keep_freed_memory()
    torch.set_num_threads(2)
    eager = open_deployment(ServingSettings(network=settings.network, device="cpu", runtime="torch", threads=2))
    scenes = test_scenes(settings.network, settings.images)
    kept = ("network", "static_network", "images", "batch", "seconds", "rounds", "connections", "workers")
    result: dict[str, Any] = {
        "settings": {name: getattr(settings, name) for name in kept},
        "default_gmacs": eager.macs(eager.default) / 1e9,
        "groups": [],
        "mixing": [],
        "choosing": [],
    }
    for name, variants in comparisons(settings, list(eager.policies)):
        try:
            rows = compare(settings, variants, scenes, eager)
        except UserError as error:  # a precision that this CPU lacks, say: the others are worth having
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        result["groups"].append({"name": name, "rows": rows})
        _write(settings, result)
    if settings.below:
        compiled = open_deployment(ServingSettings(network=settings.network, device="cpu", threads=2))
        pictures = scenes.pictures[:256]
        images = np.stack([compiled.transform(picture) for picture in pictures])
        result["choosing"] = selector_shares(compiled, images, list(compiled.policies))
        result["mixing"] = mixed_batches()
        _write(settings, result)
    return result


def _write(settings: ServingBenchmarkSettings, result: dict[str, Any]) -> None:
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(settings.out, json.dumps(result, indent=1).encode())


def main(settings: ServingBenchmarkSettings) -> None:
    """Measure, print the tables and, if asked, the JSON line."""
    result = benchmark(settings)
    print(tables(result))
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, ServingBenchmarkSettings, __doc__ or "")
