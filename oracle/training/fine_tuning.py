"""Fine-tuning a network for many configurations; the command is ``python -m oracle.rof``.

fine_tune(RofSettings(space="stride", epochs=1, images=1000))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

import dynamic
from dynamic.configuration import Configuration, identity_of_attributes
from dynamic.errors import UserError
from dynamic.files import make_writable
from dynamic.models import LoadedNetwork, folder_name, identity_of
from dynamic.training.checkpoint import stored_weights, write_weights
from dynamic.training.loop import Training, run_epochs, settled_dtype
from oracle.data.listing import tell
from oracle.data.training_images import TrainingImages, open_training_images
from oracle.settings import load_for
from oracle.training.averaging import Average, averaged, estimate_norms
from oracle.training.losses import StudentLoss
from oracle.training.methods import distillation_step, random_option_step
from oracle.training.processes import Processes, joined
from oracle.training.progress import accuracies, open_label_images
from oracle.training.schedules import Plan, Schedule
from oracle.training.settings import RofSettings

MOST = 128
"""Images a step where ``--batch`` is not given."""

_Batch = tuple[Tensor, Tensor, list[Configuration]]
"""Images, their labels, and the configurations drawn for the step."""


def fine_tune(settings: RofSettings) -> dict[str, Any]:
    """Fine-tune, write weights, log and checkpoint, and return what the last log line says.

    Raises:
        UserError: settings that do not fit the network or the images, or a checkpoint in the folder that does not fit.
    """
    with joined(settings.device) as group:
        network = load_for(settings, settings.dataset, settings.seed)
        configurations = drawn_from(settings, network)
        images = open_training_images(
            settings.dataset,
            network.info,
            settings.data_dir,
            settings.class_map,
            settings.images,
            settings.seed,
            settings.regime,
        )
        batch = min(MOST, len(images)) if settings.batch is None else settings.batch
        if len(images) < batch or batch < 2 * group.size:
            raise UserError(
                f"--batch {batch} must be at most the {len(images)} training images "
                f"and at least two for each of the {group.size} processes"
            )
        if settings.batch is None and batch < MOST and group.leads:
            tell(f"there are {batch} training images: they are one batch (--batch takes fewer)")
        dtype = settled_dtype(group.device, settings.dtype)
        return _fine_tune(replace(settings, batch=batch, dtype=dtype), batch, group, network, configurations, images)


def drawn_from(settings: RofSettings, network: LoadedNetwork) -> list[Configuration]:
    """The configurations that are drawn from, the cheapest first. Raises UserError where the limit leaves none."""
    resolution = network.info.resolution
    costs = {c: network.costs.macs(c, resolution) for c in dynamic.space(settings.space, network)}
    limit = float("inf") if settings.cost_limit is None else settings.cost_limit * network.macs(network.default, resolution)
    drawn = sorted((c for c in costs if costs[c] <= limit), key=lambda c: (costs[c], c))
    if not drawn:
        raise UserError(f"no configuration of {settings.space} costs at most {settings.cost_limit} times the default")
    return drawn


def _fine_tune(
    settings: RofSettings,
    batch: int,
    group: Processes,
    network: LoadedNetwork,
    configurations: list[Configuration],
    images: TrainingImages,
) -> dict[str, Any]:
    out = settings.out or Path("trained") / f"{folder_name(settings.model)}-{settings.method}-{Path(settings.space).stem}"
    if group.leads:
        make_writable(out)
    identity = _identity(settings, network, group, configurations, images)
    network = network.to(group.device).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = settings.norm_momentum
    optimizer = torch.optim.SGD(
        network.original.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    parallel = DistributedDataParallel(network) if group.size > 1 else network
    average = averaged(network, settings.average) if settings.average else None
    steps = min(len(images), settings.epoch_images or len(images)) // batch
    if not steps:
        raise UserError(f"--epoch-images {settings.epoch_images} is less than a batch of {batch}: nothing would be learned")
    training = Training(
        network=network,
        stored=network.original,
        optimizer=optimizer,
        schedule=Schedule(optimizer, _plan(settings, steps)),
        schedule_each="step",
        average=None if average is None else average.weights,
        batches=partial(_batches, settings, batch, steps, group, configurations, images),
        steps=steps,
        step=partial(_step, settings, parallel, network, average, configurations[0]),
        epochs=settings.epochs,
        seed=settings.seed,
        rank=group.rank,
        barrier=group.wait,
        identity=identity,
        out=out,
        device=group.device,
    )
    if group.leads:
        checked = open_label_images(settings, network)
        seen = network if average is None else average.network
        training = replace(training, check=partial(accuracies, seen, checked, configurations, settings.seed))
    line = run_epochs(training)
    if group.leads:
        if average is not None:
            estimate_norms(average.network, images, batch, settings.seed)
        write_weights(
            stored_weights(network.original if average is None else average.network.original),
            out / "weights.safetensors",
            asdict(settings),
            identity["start"],
        )
    return line | {"configurations": len(configurations), "weights": str(out / "weights.safetensors")}


def _batches(
    settings: RofSettings,
    size: int,
    steps: int,
    group: Processes,
    configurations: list[Configuration],
    images: TrainingImages,
    epoch: int,
) -> Iterator[_Batch]:
    """This process's share of every batch of an epoch, with the same configurations in every process."""
    stream = np.random.default_rng([settings.seed, epoch])
    order = stream.permutation(len(images))[: steps * size]
    rows = [part[group.rank :: group.size] for part in order.reshape(steps, size)]
    others = configurations[1:] if settings.method == "distillation" and len(configurations) > 1 else configurations
    draws = stream.integers(len(others), size=(steps, settings.students))
    for (batch, labels), drawn in zip(images.batches(epoch, rows), draws, strict=True):
        yield batch, labels, [others[position] for position in drawn]


def _step(
    settings: RofSettings,
    parallel: nn.Module,
    network: LoadedNetwork,
    average: Average | None,
    cheapest: Configuration,
    batch: _Batch,
) -> float:
    device = next(network.parameters()).device
    images, labels = batch[0].to(device, memory_format=torch.channels_last), batch[1].to(device)
    drawn = batch[2]
    if settings.method == "rof":
        return random_option_step(parallel, images, labels, drawn[0], settings.dtype)
    return distillation_step(
        parallel,
        network,
        images,
        labels,
        [cheapest, *drawn],
        settings.dtype,
        teacher=average.network if average and settings.teacher == "average" else None,
        loss=StudentLoss(
            label_weight=settings.label_weight,
            deferral_weight=settings.deferral_weight,
            temperature=settings.temperature,
        ),
    )


def _plan(settings: RofSettings, steps: int) -> Plan:
    return Plan(
        name=settings.schedule,
        epochs=settings.epochs,
        steps=steps,
        warm_up_steps=settings.warm_up_steps,
        drop_after=settings.drop_after,
        decay_epochs=settings.decay_epochs,
    )


def _identity(
    settings: RofSettings,
    network: LoadedNetwork,
    group: Processes,
    configurations: list[Configuration],
    images: TrainingImages,
) -> dict[str, Any]:
    """What must agree for a training to go on; weights (before the first step), space and images by their content."""
    where: tuple[str, ...] = ("out", "data_dir", "class_map", "device", "json", "weights", "space", "images", "attributes")
    where += ("epochs", "decay_epochs") if settings.schedule == "stable" else ()  # the schedule says whether they may change
    pictures = ("resolution", "mean", "std", "preprocessing")  # are in the network's identity
    kept = {key: value for key, value in asdict(settings).items() if key not in where + pictures}
    kept |= {"model": network.info.name} | identity_of(network.info) | identity_of_attributes(configurations)
    drawn = sha256("\n".join(c.id for c in configurations).encode()).hexdigest()[:12]
    space = f"{Path(settings.space).stem} ({len(configurations)}, {drawn})"
    return kept | {"start": network.digest, "processes": group.size, "space": space, "training_images": images.digest}
