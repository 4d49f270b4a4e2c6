"""What one step of a fine-tuning learns: each method is a function that leaves gradients and returns its loss.

Forward passes run in bfloat16 where ``dtype`` says so; losses and backward passes run outside autocast, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dynamic.configuration import Configuration
from dynamic.network import DynamicNetwork
from dynamic.training.loop import autocast
from oracle.training.losses import StudentLoss

DISTILLED = StudentLoss()
"""Students learn the teacher's probabilities alone."""


def random_option_step(
    parallel: nn.Module, images: Tensor, labels: Tensor, configuration: Configuration, dtype: str = "float32"
) -> float:
    """One batch under one configuration, as in the paper (section 3.4).

    Args:
        parallel: the dynamic network, wrapped where several processes train.
        images: (N, 3, H, W), normalised, on the network's device.
        labels: (N,) int64 classes.
        configuration: what the batch runs with.
        dtype: of the forward pass, ``bfloat16`` or ``float32``.

    Returns:
        The mean cross-entropy.
    """
    loss = F.cross_entropy(_logits(parallel, images, configuration, dtype), labels)
    loss.backward()
    return float(loss.detach())


def distillation_step(
    parallel: nn.Module,
    network: DynamicNetwork,
    images: Tensor,
    labels: Tensor,
    students: Sequence[Configuration],
    dtype: str = "float32",
    *,
    teacher: DynamicNetwork | None = None,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = DISTILLED,
) -> float:
    """In-place distillation with the sandwich rule (Yu & Huang, Universally Slimmable Networks, ICCV 2019).

    The default configuration learns from the labels, and ``students`` learn the probabilities that it gives. Batch-norm
    statistics follow the default configuration alone, so that it stays what it was; the others' are re-estimated afterwards
    (:mod:`dynamic.recalibration`).

    Args:
        parallel, images, labels, dtype: see :func:`random_option_step`.
        network: what ``parallel`` wraps, or the same.
        students: configurations that learn from the default.
        teacher: the network whose default configuration teaches, in evaluation mode; ``network`` itself unless given.
        loss: of a student's logits, the teacher's and the labels.

    Returns:
        The default's mean cross-entropy.
    """
    with _local(parallel):
        logits = _logits(parallel, images, network.default, dtype)
        own = F.cross_entropy(logits, labels)
        own.backward()
    if teacher is not None:
        with torch.no_grad():
            logits = _logits(teacher, images, teacher.default, dtype)
    taught = logits.detach()
    with _statistics_held(network):
        for position, student in enumerate(students):
            with nullcontext() if position + 1 == len(students) else _local(parallel):
                learned = _logits(parallel, images, student, dtype)
                (loss(learned, taught, labels) / len(students)).backward()
    return float(own.detach())


def _logits(network: nn.Module, images: Tensor, configuration: Configuration, dtype: str) -> Tensor:
    with autocast(str(images.device), dtype):
        logits = network(images, configuration)
    return logits.float()


def _local(network: nn.Module) -> AbstractContextManager[None]:
    """Gradients stay in this process until the step's last backward pass."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def _statistics_held(network: nn.Module) -> Iterator[None]:
    """Normalise with the batch's own statistics without recording them."""
    with ExitStack() as undo:
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.track_running_stats = False
                undo.callback(setattr, module, "track_running_stats", True)
        yield
