"""Train a network on fashion-scenes: python -m dynamic.train --model resnet50-slim --out trained/resnet50-slim

Leaves in OUT: weights.safetensors (what ``--weights`` takes), log.jsonl (one line an epoch), checkpoint.pt (to go on after
an interruption, with the same result as without it).
"""

from __future__ import annotations

import json

from dynamic.command import run_command
from dynamic.training.scratch import TrainSettings, train


def main(settings: TrainSettings) -> None:
    """Train, then print the accuracies and, if asked, the JSON line."""
    result = train(settings)
    images = settings.images or 10_000
    print(f"{result['model']}: {result['parameters']:,} parameters; matched scenes, {images:,} images a split")
    print(f"  label {result['label_accuracy']:.2%}   test {result['test_accuracy']:.2%}   {result['weights']}")
    if settings.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_command(main, TrainSettings, __doc__ or "")
