"""The service under load: requests a second, latency, accuracy through HTTP, the price of mixing configurations.

    python -m benchmarks.serving                                  # the shipped network, about six minutes on two cores
    python -m benchmarks.serving --network runs/full-width --images 3000 --connections 32

Starts ``bentoml serve`` on loopback and loads it with wrk (apt-get install wrk), which costs the two cores little. Every
policy is asked of the same server in the same run: the static default, the efficiency operating point of each policy, the
cheapest configuration. Accuracy: the run's test images as PNG files through /v1/classify_batch, compared image by image
with what the selector benchmark's own code (``selector.fitting.play``) decides on the same pixels.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
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

from benchmarks.load import body, drain, images_per_second, load, server
from dynamic.command import keep_freed_memory, run_command
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.scenes import FashionScenes
from oracle.evaluation.bounds import interval
from oracle.reporting.page import aligned
from oracle.settings import RunSettings
from selector.learning.fitting import play
from selector.observation.images import Live
from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.opening import folder_of, open_deployment
from serving.inference.plans import FORCED, Plan
from serving.settings import ServingSettings


@dataclass(frozen=True, kw_only=True)
class ServingBenchmarkSettings:
    """What to load, and how."""

    network: str = "matched"
    """As SERVING_NETWORK: a shipped run, or the folder of a run on fashion-scenes."""
    images: int = 10_000
    """Test images whose answers are compared with those computed without a server."""
    policies: str = "cascade,correctness,stagewise,head"
    """Comma-separated, or all; beside default and cheapest, each at its efficiency operating point."""
    batch: int = 32
    """Images of a batch request."""
    seconds: float = 8.0
    """Of each load; a good many times what a batch request takes."""
    rounds: int = 3
    """Loads of each policy, taken in turns; the median counts."""
    connections: int = 16
    """Requests under way at a time."""
    workers: int = 2
    """Processes of the server; they share the cores."""
    batchable: bool = True
    """Also load BentoML's own adaptive batching."""
    out: Path | None = None
    """JSON file for all numbers."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def scene_files(deployment: Deployment, settings: ServingBenchmarkSettings) -> tuple[list[bytes], Tensor, np.ndarray]:
    """Scenes of the run's regime as PNG files; the same as the network reads them; their classes."""
    folder = folder_of(ServingSettings(network=settings.network))
    if folder is None:
        raise UserError(f"--network {settings.network} must be a run: a network alone has no test images")
    stored = json.loads((folder / "settings.json").read_text())
    if stored["dataset"] != "fashion-scenes":
        raise UserError(f"--network {settings.network} ran on {stored['dataset']}: this benchmark renders fashion-scenes")
    run = RunSettings(regime=stored["regime"], seed=stored["seed"])
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
    """(columns, predicted, MACs) as ``selector.benchmark`` plays a policy, on the same pixels."""
    parts = []
    for start in tqdm(range(0, len(images), 250), desc=f"{plan.policy}, offline", unit="batch", leave=False):
        some = images[start : start + 250].contiguous(memory_format=torch.channels_last)
        played = play(
            deployment.policies[plan.policy],
            Live(deployment.network, some, deployment.portfolio, deployment.costs),
            plan.dial,
        )
        parts.append((played.columns, played.predicted, played.macs))
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
        return [answered for part in found for answered in part]


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


def loads(
    settings: ServingBenchmarkSettings, address: str, files: Sequence[bytes], policies: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By policy, single requests and batches: the median of the rounds, which go through the policies in turns."""
    measured: dict[str, dict[str, list[dict[str, float]]]] = {p: {"single": [], "batch": []} for p in policies}
    progress = tqdm(total=settings.rounds * len(policies) * 2, desc="load", unit="load", file=sys.stderr)
    for _ in range(settings.rounds):
        for policy in policies:
            singles = [body([data], "image", policy=policy) for data in files[:256]]
            starts = range(0, min(len(files), 16 * settings.batch) - settings.batch + 1, settings.batch)
            batches = [body(files[start : start + settings.batch], "images", policy=policy) for start in starts]
            for kind, path, bodies in (("single", "classify", singles), ("batch", "classify_batch", batches)):
                with ThreadPoolExecutor(1) as pool:
                    images = pool.submit(images_per_second, address, settings.seconds)
                    found = load(f"{address}/v1/{path}", bodies, settings.seconds, settings.connections)
                measured[policy][kind].append(found | {"images_per_second": images.result()})
                drain(address)
                progress.update()
    progress.close()
    result: dict[str, dict[str, Any]] = {}
    for policy, kinds in measured.items():
        result[policy] = {}
        for kind, rounds in kinds.items():
            rates = [r["images_per_second"] for r in rounds]
            middle = rounds[int(np.argsort(rates)[len(rates) // 2])]
            result[policy][kind] = middle | {"rounds": rates}
    return result


def mixing(network: str = "resnet50-slim", batch: int = 16, rounds: int = 30) -> list[dict[str, Any]]:
    """Milliseconds of a batch whose images run 1, 4, 16 configurations, against each configuration's uniform batch.

    The expected time without any price is the mean of the uniform batches' times, weighted by images.
    """
    deployment = open_deployment(ServingSettings(network=network, device="cpu"))
    limit = deployment.macs(deployment.default)
    affordable = sorted((c for c in deployment.configurations if deployment.macs(c) <= limit), key=deployment.macs)
    chosen = [affordable[i] for i in np.linspace(0, len(affordable) - 1, 16).round().astype(int)]
    images = torch.randn(batch, 3, deployment.resolution, deployment.resolution, generator=torch.Generator().manual_seed(0))

    def seconds(plans: list[Plan]) -> float:
        times = []
        for _ in range(rounds + 3):
            began = time.perf_counter()
            answer(deployment, images, plans)
            times.append(time.perf_counter() - began)
        return float(np.median(times[3:]))

    uniform = {c: seconds([Plan(policy=FORCED, configuration=c)] * batch) for c in chosen}
    alone = {c: deployment.macs(c) for c in chosen}
    found = []
    for count in (1, 4, 16):
        some = [chosen[i] for i in np.linspace(0, 15, count).round().astype(int)] if count > 1 else [chosen[-1]]
        dealt = [some[row % count] for row in range(batch)]
        plans = [Plan(policy=FORCED, configuration=c) for c in dealt]
        mixed = seconds(plans)
        expected = float(np.mean([uniform[c] for c in dealt]))
        run = sum(a.macs for a in answer(deployment, images, plans))
        found.append(
            {
                "configurations": count,
                "batch": batch,
                "milliseconds": 1000 * mixed,
                "uniform_milliseconds": 1000 * expected,
                "price": mixed / expected,
                "gmacs": run / 1e9,
                "gmacs_alone": sum(alone[c] for c in dealt) / 1e9,
            }
        )
    return found


def selecting(deployment: Deployment, images: Tensor, policies: Sequence[str], batch: int = 128) -> list[dict[str, Any]]:
    """Share of a batch's time that goes into choosing: the policy's time less that of running what it chose, unasked."""
    rows = []
    for policy in policies:
        plan = plan_request(deployment, policy=policy)[0]
        with_policy, without, macs = [], [], []
        for start in range(0, min(len(images), 8 * batch) - batch + 1, batch):
            some = images[start : start + batch]
            began = time.perf_counter()
            answers = answer(deployment, some, [plan] * batch)
            with_policy.append(time.perf_counter() - began)
            began = time.perf_counter()
            answer(deployment, some, [Plan(policy=FORCED, configuration=a.configuration) for a in answers])
            without.append(time.perf_counter() - began)
            macs.append(sum(a.selector_macs for a in answers) / sum(a.macs for a in answers))
        whole, bare = float(np.median(with_policy)), float(np.median(without))
        share = {"time_share": max(0.0, 1 - bare / whole), "gmacs_share": float(np.mean(macs))}
        rows.append({"policy": policy, "batch": batch, "milliseconds_an_image": 1000 * whole / batch} | share)
    return rows


def benchmark(settings: ServingBenchmarkSettings) -> dict[str, Any]:
    """All of it, JSON-ready."""
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
    with server(settings.network, settings.workers) as address:
        answers = {policy: through_http(address, files, policy, settings.batch) for policy in policies}
        under_load = loads(settings, address, files, policies)
    torch.set_num_threads(2)
    accuracy = {policy: compared(deployment, images, labels, answers[policy], policy) for policy in policies}
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "network": settings.network,
        "default_gmacs": deployment.macs(deployment.default) / 1e9,
        "settings": {k: getattr(settings, k) for k in ("images", "batch", "seconds", "rounds", "connections", "workers")},
        "policies": [{"policy": p} | accuracy[p] | {"load": under_load[p]} for p in policies],
        "selecting": selecting(deployment, images, policies),
        "mixing": mixing(),
        "batchable": batchable(settings, files) if settings.batchable else None,
    }
    return result


def batchable(settings: ServingBenchmarkSettings, files: Sequence[bytes]) -> dict[str, Any]:
    """Single requests to BentoML's adaptive batching and to the micro-batcher, the same policy, in turns."""
    own = [body([data], "image") for data in files[:256]]
    # It takes JSON lists or a multipart list; pictures go into the latter.
    theirs = [body([data], "images") for data in files[:256]]
    found: dict[str, Any] = {}
    for name, target, bodies in (
        ("micro-batcher", "serving.service:DynamicClassifier", own),
        ("batchable", "benchmarks.batchable:Batchable", theirs),
    ):
        with server(settings.network, settings.workers, target) as address:
            burst = [
                load(f"{address}/v1/classify", bodies, settings.seconds, settings.connections)
                for _ in range(settings.rounds)
            ]
            lone = load(f"{address}/v1/classify", bodies, 3, 1)
        found[name] = sorted(burst, key=lambda r: r["requests_per_second"])[settings.rounds // 2] | {
            "lone_p50_ms": lone["p50_ms"]
        }
    return found


def table(result: dict[str, Any]) -> str:
    """For people."""
    header = [
        "policy",
        "accuracy",
        "MMACs",
        "images unlike offline",
        "single images/s",
        "p50, p99 ms",
        "batch images/s",
        "p50, p99 ms",
        "× default",
    ]
    base = result["policies"][0]["load"]
    rows = []
    for row in result["policies"]:
        single, batch = row["load"]["single"], row["load"]["batch"]
        # Round by round, since a machine that others share too is not as fast in every round.
        ratios = [np.median(np.divide(row["load"][k]["rounds"], base[k]["rounds"])) for k in ("single", "batch")]
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
                f"{ratios[0]:.2f}, {ratios[1]:.2f}",
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
    if result["batchable"]:
        both = [
            [
                name,
                f"{r['requests_per_second']:.0f}",
                f"{r['p50_ms']:.0f}, {r['p99_ms']:.0f}",
                f"{r['lone_p50_ms']:.0f}",
                str(int(r["failed"])),
            ]
            for name, r in result["batchable"].items()
        ]
        parts.append(aligned(["batching", "single req/s", "p50, p99 ms", "alone, ms", "failed"], both))
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
