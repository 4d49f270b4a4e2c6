"""Training a network from random weights on fashion-scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic import models
from dynamic.command import check_device
from dynamic.errors import UserError
from dynamic.files import make_writable
from dynamic.scenes import CANVAS, CLASSES, FashionScenes
from dynamic.training.checkpoint import append_line, stored_weights, write_weights
from dynamic.training.loop import DType, Training, autocast, run_epochs, settled_dtype


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train; docs/training lists the commands that made the embedded weights."""

    model: str = "resnet50-slim"
    """resnet50-slim, resnext50_32x4d-slim, mobilenet_v2-slim, densenet121-slim, a torchvision or timm model, with random
    weights, or a network of your own: path/to/file.py:FUNCTION or package.module:FUNCTION."""
    out: Path | None = None
    """Folder for weights, log and checkpoint; trained/MODEL unless given."""
    data_dir: Path | None = None
    """Folder with Fashion-MNIST's training photographs; unless given, that of Debian's dataset-fashion-mnist."""
    epochs: int = 5
    """Passes over the 50,000 training photographs, each in newly drawn scenes."""
    batch: int = 128
    """Images a step."""
    learning_rate: float = 0.2
    """Peak of the one-cycle schedule."""
    weight_decay: float = 5e-4
    """L2 penalty."""
    seed: int = 0
    """Initial weights, scenes and order."""
    images: int | None = None
    """Use only so many photographs of each split (for trying things out)."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Any torch device."""
    dtype: DType = "auto"
    """Autocast type; weights stay float32. ``auto`` is bfloat16 where the device multiplies in it, else float32: a step
    takes ten times as long where bfloat16 is emulated."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        for field in ("epochs", "batch", "images"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"--{field} must be at least 1, not {value}")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, as {self.seed} is")
        check_device(self.device)


def train(settings: TrainSettings) -> dict[str, Any]:
    """Train, evaluate on the label and test splits of the matched regime, and return what the last log line says.

    Raises:
        UserError: no training photographs, an unknown model, or a checkpoint in the folder that does not fit.
    """
    settings = replace(settings, dtype=settled_dtype(settings.device, settings.dtype))
    out = settings.out or Path("trained") / models.folder_name(settings.model)
    scenes = FashionScenes("train", data_dir=settings.data_dir, count=settings.images)
    make_writable(out)
    torch.manual_seed(settings.seed)
    network = _built(settings.model).to(settings.device).to(memory_format=torch.channels_last)
    steps = -(-len(scenes) // settings.batch)
    optimizer = torch.optim.SGD(
        _groups(network, settings.weight_decay), lr=settings.learning_rate, momentum=0.9, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=steps, pct_start=0.2
    )
    training = Training(
        network=network,
        stored=network,
        optimizer=optimizer,
        schedule=schedule,
        schedule_each="step",
        batches=partial(_batches, settings, scenes),
        steps=steps,
        step=partial(_step, settings, network),
        epochs=settings.epochs,
        seed=settings.seed,
        identity=_identity(settings),
        out=out,
        device=settings.device,
    )
    run_epochs(training)
    # What is stored is rounded to float16, so that is what is evaluated.
    stored = stored_weights(network)
    write_weights(stored, out / "weights.safetensors", asdict(settings))
    network.load_state_dict(stored)
    result = {
        "model": settings.model,
        "parameters": sum(p.numel() for p in network.parameters()),
        "epochs": settings.epochs,
        "label_accuracy": accuracy(network, "label", settings.device, settings.images),
        "test_accuracy": accuracy(network, "test", settings.device, settings.images),
        "weights": str(out / "weights.safetensors"),
    }
    append_line(out / "log.jsonl", result)
    return result


def _built(model: str) -> nn.Module:
    """Raises UserError where a network of one's own is none for scenes of so many classes."""
    network = models.build(model, len(CLASSES))
    if models.known(model):
        return network
    try:
        with torch.inference_mode():
            shape = tuple(network.eval()(torch.zeros(2, 3, CANVAS, CANVAS)).shape)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{model} cannot run on {CANVAS}-pixel images: {str(error).splitlines()[0]}") from error
    if shape != (2, len(CLASSES)):
        raise UserError(
            f"{model} makes {shape} of 2 images, not 2 x {len(CLASSES)} logits, one for each class of the scenes"
        )
    return network.train()


def _batches(settings: TrainSettings, scenes: FashionScenes, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every photograph once, in newly drawn scenes."""
    scenes.reseed(settings.seed * 1000 + epoch + 1)
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(scenes))
    for start in range(0, len(order), settings.batch):
        rows = order[start : start + settings.batch]
        yield scenes.render(rows), torch.from_numpy(scenes.labels[rows])


def _step(settings: TrainSettings, network: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    images = batch[0].to(settings.device, memory_format=torch.channels_last)
    with autocast(settings.device, settings.dtype):
        logits = network(images)
    loss = F.cross_entropy(logits.float(), batch[1].to(settings.device), label_smoothing=0.05)
    loss.backward()
    return loss.item()


@torch.inference_mode()
def accuracy(network: nn.Module, split: Literal["label", "test"], device: str, images: int | None = None) -> float:
    """Fraction of the split's matched scenes (all, or the first ``images``) that the network classifies correctly."""
    scenes = FashionScenes(split, count=images)
    network.eval()
    right = 0
    for start in range(0, len(scenes), 250):
        rows = np.arange(start, min(start + 250, len(scenes)))
        logits = network(scenes.render(rows).to(device, memory_format=torch.channels_last))
        right += int((logits.argmax(1).cpu() == torch.from_numpy(scenes.labels[rows])).sum())
    return right / len(scenes)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels, not biases and batch-norm scales."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _identity(settings: TrainSettings) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(settings).items() if key not in ("out", "data_dir", "device", "json")}
    return kept | models.code_identity(settings.model)
