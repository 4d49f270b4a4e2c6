"""The service under load: requests a second, latency, accuracy through HTTP, the price of mixing configurations.

    python -m benchmarks.serving                                  # the shipped network, about six minutes on two cores
    python -m benchmarks.serving --network runs/full-width --images 3000 --connections 32

Starts ``bentoml serve`` twice on loopback and loads both in turns with wrk (apt-get install wrk), which costs the two cores
little. One server has the run and its policies: default, the efficiency operating point of each policy, cheapest. The other
is the baseline of every speed-up: the static network that one would deploy without policies, the run's weights under the
default configuration with batch norms folded (SERVING_STATIC). Accuracy: the run's test images as PNG files through
/v1/classify_batch, compared image by image with what the selector benchmark's own code decides on the same pixels
(``selector.policies.running.run_policy``).
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.batches import mixed_batches, selector_shares
from benchmarks.load import PORT, body, drain, images_per_second, load, server
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.resources import keep_freed_memory
from dynamic.scenes import FashionScenes
from oracle.evaluation.bounds import interval
from oracle.reporting.text import aligned
from oracle.runs import Run
from selector.observation.eager import live_images
from selector.policies.running import run_policy
from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.opening import folder_of, open_deployment
from serving.inference.plans import Plan
from serving.settings import ServingSettings

STATIC = "static network"
"""Names the baseline among the policies."""


@dataclass(frozen=True, kw_only=True)
class ServingBenchmarkSettings:
    """Which network is loaded, and how."""

    network: str = "matched"
    """As SERVING_NETWORK: a shipped run, or the folder of a run on fashion-scenes."""
    images: int = 10_000
    """Test images whose answers are compared with those computed without a server."""
    policies: str = "cascade,correctness,stagewise,head"
    """Comma-separated, or all; beside default and cheapest, each at its efficiency operating point."""
    batch: int = 32
    """Images of a batch request."""
    seconds: float = 8.0
    """Seconds of each load; a good many times what a batch request takes."""
    rounds: int = 3
    """Loads of each policy and of the static network, taken in turns; a speed-up is the median of the rounds' ratios."""
    connections: int = 16
    """Requests under way at a time."""
    workers: int = 2
    """Processes of the server; they share the cores."""
    out: Path | None = None
    """JSON file for all numbers."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def scene_files(deployment: Deployment, settings: ServingBenchmarkSettings) -> tuple[list[bytes], Tensor, np.ndarray]:
    """Scenes of the run's regime as PNG files; the same as the network reads them; their classes."""
    folder = folder_of(ServingSettings(network=settings.network))
    if folder is None:
        raise UserError(f"--network {settings.network} must be a run: a network alone has no test images")
    run = Run.open(folder).settings
    if run.dataset != "fashion-scenes":
        raise UserError(f"--network {settings.network} ran on {run.dataset}: this benchmark renders fashion-scenes")
    scenes = FashionScenes("test", run.regime, run.seed, count=settings.images)
    files, tensors = [], []
    for start in range(0, len(scenes), 250):
        pixels = scenes.render(range(start, min(start + 250, len(scenes))), normalise=False)[:, 0]
        for image in (pixels * 255).round().clamp(0, 255).byte().numpy():
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            files.append(buffer.getvalue())
            tensors.append(deployment.transform(Image.fromarray(image)))
    return files, torch.stack(tensors), scenes.labels


def offline(deployment: Deployment, images: Tensor, plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) columns, predicted classes and MACs as ``selector.benchmark`` finds them, on the same pixels."""
    parts = []
    for start in tqdm(range(0, len(images), 250), desc=f"{plan.policy}, offline", unit="batch", leave=False):
        some = images[start : start + 250].contiguous(memory_format=torch.channels_last)
        outcome = run_policy(
            deployment.policies[plan.policy],
            live_images(deployment.network, some, deployment.portfolio, deployment.costs),
            plan.dial,
        )
        parts.append((outcome.columns, outcome.predicted, outcome.macs))
    columns, predicted, macs = (np.concatenate(part) for part in zip(*parts, strict=True))
    return columns, predicted, macs


def through_http(address: str, files: Sequence[bytes], policy: str, batch: int) -> list[dict[str, Any]]:
    """The answers to all images, in batches, a few at a time."""

    def ask(start: int) -> list[dict[str, Any]]:
        form = [("images", ("scene.png", data)) for data in files[start : start + batch]]
        response = client.post("/v1/classify_batch", files=form, data={"policy": policy, "top_k": "1"})
        response.raise_for_status()
        return [item["answer"] for item in response.json()["results"]]

    with httpx.Client(base_url=address, timeout=120) as client, ThreadPoolExecutor(4) as pool:
        starts = range(0, len(files), batch)
        found = tqdm(pool.map(ask, starts), total=len(starts), desc=f"{policy}, HTTP", unit="request", leave=False)
        return [each for part in found for each in part]


def compared(
    deployment: Deployment, images: Tensor, labels: np.ndarray, answers: list[dict[str, Any]], policy: str
) -> dict[str, Any]:
    """Accuracy and cost through HTTP, and on how many images they are not those computed offline."""
    columns, predicted, macs = offline(deployment, images, plan_request(deployment, policy=policy)[0])
    theirs = np.array([a["predictions"][0]["index"] if a["predictions"] else -1 for a in answers])
    configurations = np.array([a["configuration"]["id"] for a in answers])
    spent = np.array([a["gmacs"] for a in answers])
    right = theirs == labels
    return {
        "images": len(labels),
        "accuracy": float(right.mean()),
        "accuracy_ci": list(interval(right)),
        "gmacs": float(spent.mean()),
        "accuracy_offline": float((predicted == labels).mean()),
        "gmacs_offline": float(macs.mean() / 1e9),
        "recorded": _recorded(deployment, policy),
        "other_prediction": int((theirs != predicted).sum()),
        "other_configuration": int((configurations != np.array([deployment.portfolio[c].id for c in columns])).sum()),
        "other_gmacs": int((~np.isclose(spent, macs / 1e9, rtol=1e-6)).sum()),
    }


def _recorded(deployment: Deployment, policy: str) -> dict[str, float] | None:
    """What selector.benchmark found on the scenes themselves, before they were rounded to 8 bits."""
    plan = plan_request(deployment, policy=policy)[0]
    rows = deployment.results["policies"] if deployment.results else []
    row = next((r for r in rows if r["policy"] == policy and plan.dial in (None, r["dial"])), None)
    return row and {"accuracy": row["accuracy"], "gmacs": row["gmacs"]}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server and the policy that is asked of it."""

    name: str
    address: str
    policy: str


def loads(
    settings: ServingBenchmarkSettings, files: Sequence[bytes], targets: Sequence[Target]
) -> dict[str, dict[str, Any]]:
    """By target, single requests and batches: the median of the rounds, which go through the targets in turns."""
    measured: dict[str, dict[str, list[dict[str, float]]]] = {t.name: {"single": [], "batch": []} for t in targets}
    progress = tqdm(total=settings.rounds * len(targets) * 2, desc="load", unit="load", file=sys.stderr)
    for _ in range(settings.rounds):
        for target in targets:
            singles = [body([data], "image", policy=target.policy) for data in files[:256]]
            starts = range(0, min(len(files), 16 * settings.batch) - settings.batch + 1, settings.batch)
            batches = [body(files[start : start + settings.batch], "images", policy=target.policy) for start in starts]
            for kind, path, bodies in (("single", "classify", singles), ("batch", "classify_batch", batches)):
                with ThreadPoolExecutor(1) as pool:
                    images = pool.submit(images_per_second, target.address, settings.seconds)
                    found = load(f"{target.address}/v1/{path}", bodies, settings.seconds, settings.connections)
                measured[target.name][kind].append(found | {"images_per_second": images.result()})
                drain(target.address)
                progress.update()
    progress.close()
    return {name: {kind: _median(rounds) for kind, rounds in kinds.items()} for name, kinds in measured.items()}


def _median(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The round of the median rate, with the rates of all."""
    rates = [r["images_per_second"] for r in rounds]
    return rounds[int(np.argsort(rates)[len(rates) // 2])] | {"rounds": rates}


def speed_up(rates: Sequence[float], static: Sequence[float]) -> dict[str, float]:
    """How many times as fast as the static network: of the ratios within a round, the median and the two ends.

    Within a round, since a machine that others share too is not as fast in every round.

    >>> speed_up([20.0, 30.0, 40.0], [10.0, 10.0, 40.0])
    {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    ratios = np.divide(rates, static)
    return {"median": float(np.median(ratios)), "low": float(ratios.min()), "high": float(ratios.max())}


def benchmark(settings: ServingBenchmarkSettings) -> dict[str, Any]:
    """Run the whole benchmark; the result is JSON-ready."""
    if shutil.which("wrk") is None:
        raise UserError("wrk is not installed: apt-get install wrk")
    keep_freed_memory()
    deployment = open_deployment(ServingSettings(network=settings.network, device="cpu"))
    files, images, labels = scene_files(deployment, settings)
    named = [name.strip() for name in settings.policies.split(",") if name.strip()]
    if named == ["all"]:
        named = list(deployment.policies)
    chosen = [name for name in named if name in deployment.policies and name not in ("default", "cheapest", "oracle")]
    policies = ["default", *chosen, "cheapest"]
    static = open_deployment(ServingSettings(network=settings.network, static=True, device="cpu"))
    with (
        server(settings.network, settings.workers) as address,
        server(settings.network, settings.workers, static=True, port=PORT + 1) as static_address,
    ):
        targets = [Target(name=STATIC, address=static_address, policy="default")]
        targets += [Target(name=policy, address=address, policy=policy) for policy in policies]
        answers = {t.name: through_http(t.address, files, t.policy, settings.batch) for t in targets}
        under_load = loads(settings, files, targets)
    torch.set_num_threads(2)
    rows = []
    for target in targets:
        own = static if target.name == STATIC else deployment
        rates = {kind: under_load[target.name][kind]["rounds"] for kind in ("single", "batch")}
        ratios = {kind: speed_up(rates[kind], under_load[STATIC][kind]["rounds"]) for kind in rates}
        facts = compared(own, images, labels, answers[target.name], target.policy)
        rows.append({"policy": target.name} | facts | {"load": under_load[target.name], "speed_up": ratios})
    torch.set_num_threads(1)
    return {
        "network": settings.network,
        "baseline": "the same weights as a static network, batch norms folded",
        "default_gmacs": deployment.macs(deployment.default) / 1e9,
        "settings": {k: getattr(settings, k) for k in ("images", "batch", "seconds", "rounds", "connections", "workers")},
        "policies": rows,
        "selecting": selector_shares(deployment, images, policies),
        "mixing": mixed_batches(),
    }


def table(result: dict[str, Any]) -> str:
    """The result as tables of text."""
    header = [
        "policy",
        "accuracy",
        "MMACs",
        "images unlike offline",
        "single images/s",
        "p50, p99 ms",
        "batch images/s",
        "p50, p99 ms",
        "× static, single",
        "× static, batches",
    ]
    rows = []
    for row in result["policies"]:
        single, batch = row["load"]["single"], row["load"]["batch"]
        ratios = [row["speed_up"][kind] for kind in ("single", "batch")]
        rows.append(
            [
                row["policy"],
                f"{row['accuracy']:.2%}",
                f"{1000 * row['gmacs']:.1f}",
                str(max(row["other_prediction"], row["other_configuration"], row["other_gmacs"])),
                f"{single['images_per_second']:.0f}",
                f"{single['p50_ms']:.0f}, {single['p99_ms']:.0f}",
                f"{batch['images_per_second']:.0f}",
                f"{batch['p50_ms']:.0f}, {batch['p99_ms']:.0f}",
                *(f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in ratios),
            ]
        )
    parts = [aligned(header, rows)]
    mixed = [
        [
            str(m["configurations"]),
            f"{m['milliseconds']:.1f}",
            f"{m['uniform_milliseconds']:.1f}",
            f"{m['price']:.2f}",
            f"{m['gmacs'] / m['gmacs_alone']:.2f}",
        ]
        for m in result["mixing"]
    ]
    parts.append(
        aligned(["configurations in a batch of 16", "ms", "ms, uniform batches", "price", "of their MACs run"], mixed)
    )
    chosen = [
        [s["policy"], f"{s['milliseconds_an_image']:.2f}", f"{s['time_share']:.0%}", f"{s['gmacs_share']:.0%}"]
        for s in result["selecting"]
    ]
    parts.append(aligned(["policy", "ms an image in a batch of 128", "of it choosing", "of its MACs"], chosen))
    return "\n\n".join(parts)


def main(settings: ServingBenchmarkSettings) -> None:
    """Measure, print the tables and, if asked, the JSON line."""
    result = benchmark(settings)
    print(table(result))
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(settings.out, json.dumps(result, indent=1).encode())
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, ServingBenchmarkSettings, __doc__ or "")
