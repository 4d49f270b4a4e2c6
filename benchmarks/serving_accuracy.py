"""Test scenes as files, what a server answers to them, and what the same network answers without a server."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image
from tqdm import tqdm

from dynamic.errors import UserError
from dynamic.scenes import FashionScenes
from oracle.evaluation.bounds import interval
from oracle.run_folder import RunFolder
from selector.observation.images import LiveImages
from selector.policies.running import run_policy
from serving.inference.budget import plan_request
from serving.inference.deployment import Deployment
from serving.inference.finding import folder_of
from serving.settings import ServingSettings

_CHUNK = 250
"""Images that run together offline."""


@dataclass(frozen=True, kw_only=True)
class TestScenes:
    """Scenes of a run's regime.

    Attributes:
        files: PNG files, of 8 bits.
        pictures: the same, decoded.
        labels: (N,) classes.
    """

    files: list[bytes]
    pictures: list[Image.Image]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)


def test_scenes(network: str, count: int) -> TestScenes:
    """The first ``count`` test scenes of a run; raises UserError where it ran on other images."""
    folder = folder_of(ServingSettings(network=network))
    if folder is None:
        raise UserError(f"--network {network} must be a run: a network alone has no test images")
    asked = RunFolder.open(folder).record.settings
    if asked["dataset"] != "fashion-scenes":
        raise UserError(f"--network {network} ran on {asked['dataset']}: this benchmark renders fashion-scenes")
    scenes = FashionScenes("test", asked["regime"], asked["seed"], count=count)
    files, pictures = [], []
    for start in range(0, len(scenes), _CHUNK):
        pixels = scenes.render(range(start, min(start + _CHUNK, len(scenes))), normalise=False)[:, 0]
        for image in (pixels * 255).round().clamp(0, 255).byte().numpy():
            pictures.append(Image.fromarray(image))
            buffer = io.BytesIO()
            pictures[-1].save(buffer, "PNG")
            files.append(buffer.getvalue())
    return TestScenes(files=files, pictures=pictures, labels=scenes.labels)


def wishes(policy: str, default_gmacs: float) -> dict[str, Any]:
    """What a request asks for.

    Args:
        policy: its name, at its operating point; or ``NAME:SHARE``, at no more than so many times the default's MACs.
        default_gmacs: of one image.

    >>> wishes("cascade", 0.05), wishes("cascade:0.4", 0.05)
    ({'policy': 'cascade'}, {'policy': 'cascade', 'max_gmacs': 0.02})
    """
    name, _, share = policy.partition(":")
    return {"policy": name} | ({"max_gmacs": float(share) * default_gmacs} if share else {})


def through_http(address: str, files: Sequence[bytes], asked: dict[str, Any], batch: int) -> list[dict[str, Any]]:
    """The answers to all images, in batches, a few at a time."""

    def ask(start: int) -> list[dict[str, Any]]:
        form = [("images", ("scene.png", data)) for data in files[start : start + batch]]
        response = client.post("/v1/classify_batch", files=form, data=asked | {"top_k": "1"})
        response.raise_for_status()
        return [item["answer"] for item in response.json()["results"]]

    with httpx.Client(base_url=address, timeout=300) as client, ThreadPoolExecutor(4) as pool:
        starts = range(0, len(files), batch)
        found = tqdm(pool.map(ask, starts), total=len(starts), desc=f"{asked['policy']}, HTTP", unit="request", leave=False)
        return [each for part in found for each in part]


def accuracy(answers: Sequence[dict[str, Any]], scenes: TestScenes, baseline: np.ndarray | None) -> dict[str, Any]:
    """Accuracy and cost through HTTP, and the difference from the baseline on the same images, in points with its interval.

    Args:
        answers: one for each image.
        scenes: the images.
        baseline: (N,) bool, whether the baseline is right about each; None of the baseline itself.
    """
    right = predictions(answers) == scenes.labels
    found = {
        "images": len(right),
        "accuracy": float(right.mean()),
        "accuracy_ci": list(interval(right)),
        "gmacs": float(np.mean([a["gmacs"] for a in answers])),
        "made_by": answers[0]["made_by"],
    }
    if baseline is not None:
        difference = right.astype(float) - baseline
        half = 1.96 * difference.std() / np.sqrt(len(difference))
        mean = difference.mean()
        found["points"] = [100 * mean, 100 * (mean - half), 100 * (mean + half)]
    return found


def predictions(answers: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N,) classes, -1 where an answer has none."""
    return np.array([a["predictions"][0]["index"] if a["predictions"] else -1 for a in answers])


def unlike_offline(
    deployment: Deployment, scenes: TestScenes, answers: Sequence[dict[str, Any]], asked: dict[str, Any]
) -> dict[str, Any]:
    """On how many images answers are not those of the eager engine without a server, as ``selector.benchmark`` runs it.

    Args:
        deployment: of the eager engine.
        scenes: the images.
        answers: of the server, to the same images.
        asked: as :func:`wishes`.
    """
    plan = plan_request(deployment, **asked)[0]
    columns, predicted, macs = [], [], []
    starts = tqdm(range(0, len(scenes), _CHUNK), desc=f"{plan.policy}, offline", unit="batch", leave=False)
    for start in starts:
        images = np.stack([deployment.transform(picture) for picture in scenes.pictures[start : start + _CHUNK]])
        live = LiveImages(
            deployment.network.session(images), images, deployment.portfolio, deployment.default, deployment.costs
        )
        outcome = run_policy(deployment.policies[plan.policy], live, plan.dial)
        columns += [deployment.portfolio[column].id for column in outcome.columns]
        predicted.append(outcome.predicted)
        macs.append(outcome.macs)
    spent = np.concatenate(macs) / 1e9
    return {
        "accuracy_offline": float((np.concatenate(predicted) == scenes.labels).mean()),
        "other_prediction": int((predictions(answers) != np.concatenate(predicted)).sum()),
        "other_configuration": sum(a["configuration"]["id"] != c for a, c in zip(answers, columns, strict=True)),
        "other_gmacs": int((~np.isclose([a["gmacs"] for a in answers], spent, rtol=1e-6)).sum()),
    }
