"""Fine-tuning a network for many configurations: one loop, the methods as functions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import dynamic
from dynamic.command import check_device
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.files import make_writable
from dynamic.models.loading import LoadedNetwork, load
from dynamic.scenes import Regime
from dynamic.training.checkpoint import append_line, resume, save_checkpoint, stored_weights, trim_log, write_weights
from oracle.data.sources import DatasetName, ImageSource, open_source
from oracle.data.training_images import TrainingImages, open_training_images

CHECKED = 16
"""Random configurations whose accuracy on label images is logged after every epoch."""


@dataclass(frozen=True, kw_only=True)
class RofSettings:
    """How to fine-tune; the defaults are the paper's (section 3.4). It does not give the batch."""

    model: str = "resnet50-slim"
    """As for oracle.run."""
    weights: str = "default"
    """Where to start: as for oracle.run."""
    dynamic_layers: str = ""
    """Comma-separated module names; known for the paper's four networks."""
    dataset: DatasetName = "fashion-scenes"
    """Whose training images: fashion-scenes' 50,000, or the class folders of DIR/train."""
    data_dir: Path | None = None
    """Folder of the data set; for fashion-scenes that of Fashion-MNIST (unless given, Debian's dataset-fashion-mnist)."""
    class_map: Path | None = None
    """JSON file, folder name -> class index, where folder names do not tell."""
    regime: Regime = "matched"
    """Of fashion-scenes: object sides as in pre-training, or far beyond."""
    space: str = "stride"
    """Whose configurations are drawn: as for oracle.run, one space."""
    method: Literal["rof", "distillation"] = "rof"
    """The paper's, or one of ours (see above)."""
    students: int = 2
    """Of distillation: random configurations a step, beside the cheapest."""
    cost_limit: float | None = None
    """Draw only configurations of at most so many times the default's MACs."""
    epochs: int = 15
    """Passes over the training images."""
    drop_after: int = 10
    """Epochs after which the learning rate falls to a tenth."""
    learning_rate: float = 1e-3
    """Of the first epochs."""
    momentum: float = 0.9
    """Of stochastic gradient descent."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    batch: int = 128
    """Images a step, over all processes."""
    norm_momentum: float = 0.1
    """How fast batch norms' running statistics forget. At PyTorch's 0.1 they are those of the last dozen configurations;
    0.01 averages over a hundred."""
    images: int | None = None
    """Use only so many training images (for trying things out)."""
    checked_images: int = 250
    """Label-split images that the log's accuracies are measured on; none is trained on."""
    seed: int = 0
    """Scenes or crops, order, and the configurations drawn."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Any torch device; under torchrun each process takes the GPU of its local rank."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Autocast type; weights stay float32."""
    out: Path | None = None
    """Folder for weights, log and checkpoint; trained/MODEL-METHOD-SPACE unless given."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        for field in ("epochs", "images", "checked_images", "students"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"--{field.replace('_', '-')} must be at least 1, not {value}")
        if self.batch < 2:
            raise UserError(f"--batch must be at least 2 (batch norms need two images), not {self.batch}")
        for field in ("learning_rate", "cost_limit", "norm_momentum"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise UserError(f"--{field.replace('_', '-')} must be positive, not {value}")
        if self.seed < 0 or self.drop_after < 0:
            raise UserError("--seed and --drop-after must not be negative")
        check_device(self.device)


@dataclass(frozen=True)
class _Group:
    """The processes that train together; one alone unless torchrun started several."""

    rank: int
    size: int
    device: str

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0


@contextmanager
def _group(device: str) -> Iterator[_Group]:
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield _Group(0, 1, device)
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield _Group(distributed.get_rank(), size, device)
    finally:
        distributed.destroy_process_group()


def fine_tune(settings: RofSettings) -> dict[str, Any]:
    """Fine-tune and return what the last log line says.

    >>> fine_tune(RofSettings(space="stride", epochs=1, images=1000))
    """
    with _group(settings.device) as group:
        torch.manual_seed(settings.seed)  # for random weights
        layers = [name.strip() for name in settings.dynamic_layers.split(",") if name.strip()]
        network = load(settings.model, None if settings.weights == "none" else settings.weights, layers or None)
        configurations = _drawn_from(settings, network)
        images = open_training_images(
            settings.dataset,
            network.info,
            settings.data_dir,
            settings.class_map,
            settings.images,
            settings.seed,
            settings.regime,
        )
        if len(images) < settings.batch or settings.batch < 2 * group.size:
            raise UserError(
                f"--batch {settings.batch} must be at most the {len(images)} training images "
                f"and at least two for each of the {group.size} processes"
            )
        return _fine_tune(settings, group, network, configurations, images)


def _drawn_from(settings: RofSettings, network: LoadedNetwork) -> list[Configuration]:
    """What is drawn from, the cheapest first."""
    resolution = network.info.resolution
    costs = {c: network.costs.macs(c, resolution) for c in dynamic.space(settings.space, network)}
    limit = float("inf") if settings.cost_limit is None else settings.cost_limit * network.macs(network.default, resolution)
    drawn = sorted((c for c in costs if costs[c] <= limit), key=lambda c: (costs[c], c))
    if not drawn:
        raise UserError(f"no configuration of {settings.space} costs at most {settings.cost_limit} times the default")
    return drawn


def _fine_tune(
    settings: RofSettings,
    group: _Group,
    network: LoadedNetwork,
    configurations: list[Configuration],
    images: TrainingImages,
) -> dict[str, Any]:
    out = (
        settings.out or Path("trained") / f"{settings.model.replace('/', '-')}-{settings.method}-{Path(settings.space).stem}"
    )
    if group.leads:
        make_writable(out)
    device = torch.device(group.device)
    network = network.to(device).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = settings.norm_momentum
    optimizer = torch.optim.SGD(
        network.original.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [settings.drop_after])
    parts: dict[str, Any] = {"network": network.original, "optimizer": optimizer, "schedule": schedule}
    identity = _identity(settings, network, group, configurations, images)
    first = resume(out / "checkpoint.pt", identity, group.device, **parts)
    parallel = DistributedDataParallel(network) if group.size > 1 else network
    checked = _label_images(settings, network) if group.leads else None
    steps = len(images) // settings.batch
    line = trim_log(out / "log.jsonl", first) if group.leads else {}
    for epoch in range(first, settings.epochs):
        started = time.monotonic()
        stream = np.random.default_rng([settings.seed, epoch])
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch, group.rank]).generate_state(1)[0]))  # dropout
        order = stream.permutation(len(images))[: steps * settings.batch]
        # Every process takes its share of every batch, under the same configurations.
        rows = [part[group.rank :: group.size] for part in order.reshape(steps, settings.batch)]
        draws = stream.integers(len(configurations), size=(steps, settings.students))
        network.train()
        losses = []
        progress = tqdm(
            images.batches(epoch, rows),
            total=steps,
            desc=f"epoch {epoch + 1}/{settings.epochs}",
            unit="step",
            mininterval=1,
            disable=not group.leads,
        )
        for (batch, labels), drawn in zip(progress, draws, strict=True):
            batch = batch.to(device, memory_format=torch.channels_last)
            chosen = [configurations[position] for position in drawn]
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"):
                if settings.method == "rof":
                    loss = _random_step(parallel, batch, labels.to(device), chosen[0])
                else:
                    loss = _distillation_step(parallel, network, batch, labels.to(device), [configurations[0], *chosen])
            optimizer.step()
            losses.append(loss)
            progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
        schedule.step()
        if checked is not None:
            line = {"epoch": epoch + 1, "loss": float(np.mean(losses)), "seconds": round(time.monotonic() - started, 1)}
            line |= _check(settings, network, configurations, checked)
            append_line(out / "log.jsonl", line)
            save_checkpoint(out / "checkpoint.pt", identity, epoch + 1, **parts)
        if group.size > 1:
            distributed.barrier()
    if group.leads:
        write_weights(stored_weights(network.original), out / "weights.safetensors", asdict(settings), identity["start"])
    return line | {"configurations": len(configurations), "weights": str(out / "weights.safetensors")}


def _identity(
    settings: RofSettings,
    network: LoadedNetwork,
    group: _Group,
    configurations: list[Configuration],
    images: TrainingImages,
) -> dict[str, Any]:
    """What must agree for a training to go on; weights (before the first step), space and images by their content."""
    where = ("out", "data_dir", "class_map", "device", "json", "weights", "space", "images")
    kept = {key: value for key, value in asdict(settings).items() if key not in where}
    drawn = sha256("\n".join(c.id for c in configurations).encode()).hexdigest()[:12]
    space = f"{Path(settings.space).stem} ({len(configurations)}, {drawn})"
    return kept | {"start": network.digest, "processes": group.size, "space": space, "training_images": images.digest}


def _random_step(network: nn.Module, images: Tensor, labels: Tensor, configuration: Configuration) -> float:
    """One batch under one configuration, as in the paper."""
    loss = F.cross_entropy(network(images, configuration).float(), labels)
    loss.backward()
    return float(loss.detach())


def _distillation_step(
    parallel: nn.Module, network: nn.Module, images: Tensor, labels: Tensor, students: list[Configuration]
) -> float:
    """In-place distillation with the sandwich rule (Yu & Huang, Universally Slimmable Networks, ICCV 2019).

    Batch-norm statistics follow the default configuration alone, so that it stays what it was; the others' are re-estimated
    afterwards (:mod:`dynamic.recalibration`).
    """
    default = network.default
    with _local(parallel):
        logits = parallel(images, default).float()
        loss = F.cross_entropy(logits, labels)
        loss.backward()
    taught = logits.detach().softmax(dim=1)
    with _statistics_held(network):
        for position, student in enumerate(students):
            with nullcontext() if position + 1 == len(students) else _local(parallel):
                learned = parallel(images, student).float()
                (F.cross_entropy(learned, taught) / len(students)).backward()
    return float(loss.detach())


def _local(network: nn.Module) -> Any:
    """Gradients stay in this process until the step's last backward pass."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def _statistics_held(network: nn.Module) -> Iterator[None]:
    """Normalise with the batch's own statistics without recording them."""
    with ExitStack() as undo:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                module.track_running_stats = False
                undo.callback(setattr, module, "track_running_stats", True)
        yield


def _label_images(settings: RofSettings, network: LoadedNetwork) -> tuple[ImageSource, np.ndarray]:
    """Where the log's accuracies come from: label images, which are neither trained on nor reported on."""
    scenes = settings.dataset == "fashion-scenes"
    source = open_source(
        settings.dataset,
        network.info,
        images=settings.checked_images,
        data_dir=None if scenes else settings.data_dir,
        regime=settings.regime,
        class_map=settings.class_map,
        seed=settings.seed,
    )
    return source, np.flatnonzero(source.splits == "label")


@torch.inference_mode()
def _check(
    settings: RofSettings,
    network: LoadedNetwork,
    configurations: list[Configuration],
    checked: tuple[ImageSource, np.ndarray],
) -> dict[str, float]:
    """Accuracy of the default and mean accuracy of some random configurations, the same in every epoch."""
    source, rows = checked
    device = next(network.parameters()).device
    network.eval()
    picked = np.random.default_rng(settings.seed).choice(
        len(configurations), min(CHECKED, len(configurations)), replace=False
    )
    tried = [network.default, *(configurations[position] for position in picked)]
    right, seen = np.zeros(len(tried)), 0
    for part in np.array_split(rows, -(-len(rows) // 50)):
        batch = source.load(part)
        readable = torch.from_numpy(batch.readable)
        labels = torch.from_numpy(source.labels[part])[readable].to(device)
        images = batch.images[readable].to(device, memory_format=torch.channels_last)
        right += [int((network(images, configuration).argmax(dim=1) == labels).sum()) for configuration in tried]
        seen += len(labels)
    shares = right / max(seen, 1)
    return {"label_default": round(float(shares[0]), 4), "label_random": round(float(shares[1:].mean()), 4)}
