"""Several processes that train one network together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Those that train together, seen from one of them.

    Attributes:
        rank: number of this one; 0 leads.
        size: number of processes that train together, 1 unless ``torchrun`` started several.
        device: of this one.
    """

    rank: int = 0
    size: int = 1
    device: str

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all of them have come here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, if it did; on GPUs each takes that of its local rank."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes(device=device)
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(rank=distributed.get_rank(), size=size, device=device)
    finally:
        distributed.destroy_process_group()
