"""The one training loop: epochs, progress, a log line and a checkpoint after each, and how it goes on after an interruption.

What a step learns is a function of the caller's; see :mod:`dynamic.training.scratch` and :mod:`oracle.training.methods`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from dynamic.lock import held
from dynamic.resources import cpu_has_bfloat16
from dynamic.training.checkpoint import append_line, resume, save_checkpoint, trim_log

Batch = TypeVar("Batch")

DType = Literal["auto", "bfloat16", "float32"]
"""What forward passes compute in; ``auto`` is settled by :func:`settled_dtype`."""


@dataclass(frozen=True, kw_only=True)
class Training(Generic[Batch]):
    """What is trained, on what and how.

    Attributes:
        network: what every epoch puts in training mode.
        stored: the module whose tensors the checkpoint holds: ``network``, or the one that it wraps.
        optimizer, schedule: of its parameters. The schedule advances after every step or every epoch, as ``schedule_each``
            says.
        batches: by epoch, counted from 0, what :attr:`step` takes one by one; ``steps`` of them.
        step: computes the loss of a batch, runs its backward pass and returns the loss; gradients were set to zero before.
        average: those of ``stored``, averaged over steps; updated after each.
        check: called after every epoch; what it found joins the epoch's log line.
        epochs: passes over the images.
        seed: of torch's generator, which is set anew in every epoch: dropout draws from it.
        rank: number of this process among those that train together; 0 writes log and checkpoint.
        barrier: called after every epoch; waits for the other processes.
        identity: what must agree for a checkpoint to be gone on from.
        out: folder for ``log.jsonl`` and ``checkpoint.pt``.
        device: where the checkpoint is loaded to.
    """

    network: nn.Module
    stored: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    schedule_each: Literal["step", "epoch"]
    batches: Callable[[int], Iterable[Batch]]
    steps: int
    step: Callable[[Batch], float]
    average: AveragedModel | None = None
    check: Callable[[], Mapping[str, Any]] = dict
    epochs: int
    seed: int
    rank: int = 0
    barrier: Callable[[], None] = lambda: None
    identity: Mapping[str, Any]
    out: Path
    device: str


def run_epochs(training: Training[Any]) -> dict[str, Any]:
    """Train, from the last whole epoch that a checkpoint has behind it, and return the last line of the log.

    Interrupted and started again it ends with the same weights, to the bit, as without interruption.

    Raises:
        UserError: a checkpoint of another training, one that cannot be read, or another process that trains in that folder.
    """
    with held(training.out) if training.rank == 0 else nullcontext():
        return _epochs(training)


def _epochs(training: Training[Any]) -> dict[str, Any]:
    checkpoint, log = training.out / "checkpoint.pt", training.out / "log.jsonl"
    leads = training.rank == 0
    parts: dict[str, Any] = {"network": training.stored, "optimizer": training.optimizer, "schedule": training.schedule}
    if training.average is not None:
        parts["average"] = training.average
    first = resume(checkpoint, training.identity, training.device, **parts)
    line = trim_log(log, first) if leads else {}
    for epoch in range(first, training.epochs):
        started = time.monotonic()
        torch.manual_seed(_seed(training.seed, epoch, training.rank))
        rate = training.optimizer.param_groups[0]["lr"]
        loss = _run_epoch(training, epoch)
        if leads:
            line = {"epoch": epoch + 1, "loss": loss, "learning_rate": rate, "seconds": round(time.monotonic() - started, 1)}
            line |= training.check()
            append_line(log, line)
            save_checkpoint(checkpoint, training.identity, epoch + 1, **parts)
        training.barrier()
    return line


def _run_epoch(training: Training[Any], epoch: int) -> float:
    """One pass over the images; returns its mean loss."""
    training.network.train()
    losses = []
    progress = tqdm(
        training.batches(epoch),
        total=training.steps,
        desc=f"epoch {epoch + 1}/{training.epochs}",
        unit="step",
        mininterval=1,
        disable=training.rank > 0,
    )
    for batch in progress:
        training.optimizer.zero_grad()
        losses.append(training.step(batch))
        training.optimizer.step()
        if training.average is not None:
            training.average.update_parameters(training.stored)
        if training.schedule_each == "step":
            training.schedule.step()
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    if training.schedule_each == "epoch":
        training.schedule.step()
    return float(np.mean(losses))


def _seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def settled_dtype(device: str, dtype: DType) -> DType:
    """``auto`` as the device has it: bfloat16 where it multiplies in it, else float32. Others stay as they are.

    A CPU without it emulates it: a step of the slim ResNet-50 took 28 s instead of 2.5 (AMD EPYC, AVX2).
    """
    if dtype != "auto":
        return dtype
    kind = torch.device(device).type
    has = cpu_has_bfloat16() if kind == "cpu" else kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has else "float32"


def autocast(device: str, dtype: str) -> torch.autocast:
    """Forward passes in bfloat16 where ``dtype`` says so; losses and backward passes belong outside."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bfloat16")
