"""The same network behind BentoML's own adaptive batching: what :mod:`benchmarks.serving` compares the micro-batcher with.

    bentoml serve benchmarks.batchable:Batchable

One list parameter is all that a batchable endpoint may take, so there is one policy and no options; one bad picture fails
its batch.
"""

from __future__ import annotations

import bentoml
import PIL.Image
import torch

from dynamic.command import keep_freed_memory
from serving.engine import answer
from serving.served import open_served
from serving.settings import read_settings

SETTINGS = read_settings()


@bentoml.service(
    name="batchable",
    workers=SETTINGS.workers,
    threads=1,
    traffic={"timeout": 600},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Batchable:
    """Classifies pictures under the active policy."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._served = open_served(SETTINGS)

    @bentoml.api(route="/v1/classify", batchable=True, max_batch_size=SETTINGS.max_batch, max_latency_ms=60_000)
    def classify(self, images: list[PIL.Image.Image]) -> list[int]:
        """The class of each."""
        torch.set_num_threads(SETTINGS.threads)
        served = self._served
        prepared = torch.stack([served.transform(image.convert("RGB")) for image in images])
        answers = answer(served, prepared, [served.active] * len(images))
        return [int(found.probabilities.argmax()) for found in answers]
