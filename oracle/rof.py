"""Random option fine-tuning (paper, section 3.4): make a network good at many configurations instead of one.

    python -m oracle.rof --space stride                                     # slim ResNet-50, fashion-scenes
    python -m oracle.rof --space efficiency --method distillation --cost-limit 1
    python -m oracle.rof --model resnet50 --weights IMAGENET1K_V1 --dataset imagenet --data-dir /data/imagenet
    python -m oracle.rof --space ladder.json --method distillation --schedule stable --epochs 20 --average 0.99
    torchrun --nproc-per-node 4 -m oracle.rof --model resnet50 ...          # several GPUs, or processes on CPUs

``rof``: every batch runs under one configuration drawn at random from the space. ``distillation`` (ours): in every step
the default configuration learns from the labels and teaches the cheapest one and some random others its probabilities.
``--space`` with the default alone is the control: as many passes over the images, for one configuration.
Leaves in OUT: weights.safetensors (what ``oracle.run --weights`` takes), log.jsonl (a line an epoch), checkpoint.pt (a
training that was interrupted goes on from its last whole epoch, with the same result as without it).
"""

from __future__ import annotations

import json
import os

from dynamic.command import run_command
from oracle.training.fine_tuning import fine_tune
from oracle.training.progress import CHECKED
from oracle.training.settings import RofSettings


def main(settings: RofSettings) -> None:
    """Fine-tune, then say what came out and, if asked, print the JSON line."""
    result = fine_tune(settings)
    if int(os.environ.get("RANK", "0")) > 0:
        return
    if "loss" in result:
        others = min(CHECKED, result["configurations"])
        print(
            f"{settings.method} over {result['configurations']} configurations of {settings.space}: on label images the "
            f"default reaches {result['label_default']:.1%}, {others} random ones {result['label_random']:.1%} on average"
        )
    for configuration, share in result.get("label_recalibrated", {}).items():
        print(f"  {configuration}  {share:.1%} under recalibrated batch norms")
    print(f"weights: {result['weights']}   try them: python -m oracle.run --model {settings.model} --weights ...")
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, RofSettings, __doc__ or "")
