"""What laying kernels out once saves: python -m benchmarks.packing                # full ResNet-50, random weights, a minute

Milliseconds an image with one thread, by images a batch, under the default and a cheap configuration, with the kernels as
they are stored and laid out once (:mod:`dynamic.packing`), in turns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

import dynamic
from dynamic.command import run_command
from dynamic.resources import keep_freed_memory
from oracle.reporting.text import aligned


@dataclass(frozen=True, kw_only=True)
class PackingSettings:
    """Which network is timed, on what."""

    model: str = "resnet50"
    """As for oracle.run, with random weights."""
    cheap: str = "s3-2-2-3_d1-1-1-1_k3-3-3-3"
    """Configuration beside the default."""
    resolution: int = 96
    """Side of the images in pixels."""
    repeats: int = 5
    """How often each is timed; the median counts."""


def main(settings: PackingSettings) -> None:
    """Measure and print the table."""
    keep_freed_memory()
    torch.set_num_threads(1)
    network = dynamic.load(settings.model, weights=None)
    fast = [network.for_inference(packed=packed) for packed in (False, True)]
    rows = []
    for count in (1, 4, 8, 16, 32):
        images = torch.randn(count, 3, settings.resolution, settings.resolution).to(memory_format=torch.channels_last)
        row = [str(count)]
        for configuration in (network.default, dynamic.Configuration.parse(settings.cheap)):
            times: list[list[float]] = [[], []]
            for _ in range(settings.repeats + 1):
                for which, own in zip(fast, times, strict=True):
                    began = time.perf_counter()
                    with torch.inference_mode():
                        which(images, configuration)
                    own.append(1000 * (time.perf_counter() - began) / count)
            row += [f"{median(own[1:]):.1f}" for own in times]
        rows.append(row)
    print(aligned(["images", "default, ms", "laid out once", "cheap, ms", "laid out once"], rows))


if __name__ == "__main__":
    run_command(main, PackingSettings, __doc__ or "")
