"""The slim ResNet-50 at full width: python -m benchmarks.widen --out trained/widened.safetensors

Every channel stands as often as the full network is wider, and what reads it divides by that (Net2WiderNet: Chen, Goodfellow
and Shlens, ICLR 2016). Answers, and so every policy, are the slim network's within rounding; arithmetic, memory and time are
the full ResNet-50's. It says nothing of how well a full-size network would do: it is there to be timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dynamic import models
from dynamic.command import run_command
from dynamic.files import make_writable
from dynamic.scenes import CLASSES
from dynamic.training.checkpoint import write_weights


@dataclass(frozen=True, kw_only=True)
class WidenSettings:
    """Which weights are widened."""

    weights: str = "distillation-ladder"
    """Weights of resnet50-slim: as for oracle.run."""
    out: Path = Path("trained/widened.safetensors")
    """Where the full ResNet-50's weights go; oracle.run takes them as --weights."""


def widened(slim: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``slim``'s function in tensors of ``full``'s shapes.

    Args:
        slim, full: state dictionaries of one architecture at two widths; each width of ``full`` is a multiple.
    """
    found = {}
    for name, wide in full.items():
        narrow = slim[name]
        times = [w // n for w, n in zip(wide.shape, narrow.shape, strict=True)]
        found[name] = narrow.repeat(times) if times else narrow.clone()
        if narrow.ndim > 1:  # kernels and matrices read each of their inputs so many times
            found[name] = found[name] / times[1]
    return found


def main(settings: WidenSettings) -> None:
    """Write the weights."""
    slim = models.load("resnet50-slim", settings.weights).original
    with torch.device("meta"):
        full: nn.Module = models.build("resnet50", len(CLASSES))
    make_writable(settings.out.parent)
    write_weights(widened(slim.state_dict(), full.state_dict()), settings.out, asdict(settings))
    print(f"weights: {settings.out}   try them: python -m oracle.run --model resnet50 --weights {settings.out} ...")


if __name__ == "__main__":
    run_command(main, WidenSettings, __doc__ or "")
