"""Comprehensive evaluation: every image of a source under every configuration, into the outcomes store.

A region is evaluated by a function of nothing but itself (:class:`OutcomesJob`), wherever that runs; whoever runs it yields
finished regions (:mod:`oracle.evaluation.doing`), and one writer stores them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork
from dynamic.network import DynamicNetwork
from dynamic.norms import Statistics
from dynamic.resources import available_memory, cpu_count
from dynamic.walk import walkers
from oracle.data.sources import Batch, ImageSource
from oracle.evaluation.jobs import threads_of_walks
from oracle.outcomes import PENDING, OutcomesStore
from oracle.settings import DTYPES

_TRIED, _TRIAL_MACS = 24, 60e9
"""Configurations of an estimate's trial, and about how many MACs it may cost."""

_MOST_ROWS = {"cpu": 128, "cuda": 2048}
"""Most rows a joined batch may have. On a CPU 128 was the best of 16 to 128 tried; for CUDA it is a guess, not measured."""


@dataclass(frozen=True)
class WalkSize:
    """How much runs at once; it decides memory and, through rounding, the last bits of the outcomes.

    Attributes:
        images: enter a walk together.
        rows: most rows that joined branches may have.
        walks: run side by side, with one thread each where there are several. On a CPU that beats one walk of several
            threads (1.4 times on two cores): small operations do not split well.
    """

    images: int
    rows: int
    walks: int = 1

    @classmethod
    def fitting(
        cls,
        network: DynamicNetwork,
        configurations: Sequence[Configuration],
        resolution: int,
        region: int,
        device: str,
        memory_gib: float | None,
        dtype: torch.dtype = torch.float32,
    ) -> WalkSize:
        """The largest useful size for the memory given, or half of what is free.

        Raises:
            UserError: not even one image fits.
        """
        budget = memory_budget(device, memory_gib)
        row = network.costs.row_bytes(configurations, resolution, item_bytes=torch.empty(0, dtype=dtype).element_size())
        affordable = int(budget // row)
        if affordable < 1:
            raise UserError(
                f"one image under this space needs about {row / 2**30:.2f} GiB, {budget / 2**30:.2f} GiB may be used: "
                "raise --memory-gib or choose a smaller space or resolution"
            )
        kind = torch.device(device).type
        walks = min(cpu_count(), region, affordable) if kind == "cpu" else 1
        rows = min(affordable // walks, _MOST_ROWS.get(kind, 256))
        return cls(min(-(-region // walks), rows), rows, walks)


def memory_budget(device: str, memory_gib: float | None) -> float:
    """Bytes that may be used: ``memory_gib``, or half of what is free."""
    return memory_gib * 2**30 if memory_gib is not None else free_memory(device) / 2


def free_memory(device: str) -> int:
    """Bytes free on a device; on a CPU within the limits of this process' container."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


@dataclass(frozen=True, kw_only=True)
class Region:
    """What came out of some images that are stored together.

    Attributes:
        rows: (images,) of the source.
        predicted: (images, configurations) int32 class indices, -1 where an answer is not finite or an image not readable.
        p_true: (images, configurations) float32 probability of the true class.
        readable: (images,) bool.
        problems: what was wrong with each unreadable image, by key.
    """

    rows: np.ndarray
    predicted: np.ndarray
    p_true: np.ndarray
    readable: np.ndarray
    problems: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class OutcomesJob:
    """Outcomes of regions; see :class:`oracle.evaluation.jobs.Job`.

    Attributes:
        configurations: the columns.
        size: what runs at once.
        dtype: name of the type that the network runs in.
        threads: of each walk on a CPU where ``size`` has one walk; several walks have one each. The number decides the last
            bits too.
        statistics: recalibrated batch norms; None where the network keeps its own.
    """

    configurations: Space
    size: WalkSize
    dtype: str
    threads: int
    statistics: Statistics | None = None

    def opened(
        self, network: LoadedNetwork, source: ImageSource, device: str, cores: int | None = None
    ) -> Callable[[np.ndarray, Batch], Region]:
        """See :class:`oracle.evaluation.jobs.Job`."""
        dtype, columns, size = DTYPES[self.dtype], self.configurations, self.size
        fast = network.for_inference(device, dtype, self.statistics)
        pool = threads_of_walks(size.walks, self.threads, cores)

        def compute(rows: np.ndarray, batch: Batch) -> Region:
            predicted = np.full((len(rows), len(columns)), -1, dtype=np.int32)
            p_true = np.zeros((len(rows), len(columns)), dtype=np.float32)
            readable = np.flatnonzero(batch.readable)
            parts = [readable[start : start + size.images] for start in range(0, len(readable), size.images)]

            def run(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                chosen = batch.images[torch.from_numpy(part)].to(device, dtype, memory_format=torch.channels_last)
                labels = torch.from_numpy(source.labels[rows[part]]).to(device)
                return outcomes_of(fast, chosen, labels, columns, size.rows)

            for part, found in zip(parts, pool.map(run, parts), strict=True):
                predicted[part], p_true[part] = found
            return Region(rows=rows, predicted=predicted, p_true=p_true, readable=batch.readable, problems=batch.problems)

        return compute


def store_region(region: Region, store: OutcomesStore, progress: tqdm[NoReturn]) -> None:
    """Write a region; done by the one writer of a run, in whatever order regions come.

    Args:
        region: one of ``store.pending()``.
        store: receives predictions and probabilities.
        progress: counts images; see :func:`progress_of`.
    """
    store.write(region.rows, region.predicted, region.p_true, region.readable)
    for key, reason in region.problems.items():
        progress.write(f"skipped {key}: {reason}", file=sys.stderr)
    progress.update(len(region.rows))


def progress_of(stores: Sequence[OutcomesStore], what: str) -> tqdm[NoReturn]:
    """A progress bar on stderr over the images of some stores: rate and time left."""
    return tqdm(
        total=sum(len(store.status) for store in stores),
        initial=sum(int((store.status != PENDING).sum()) for store in stores),
        desc=what,
        unit="image",
        smoothing=0.1,
        file=sys.stderr,
        mininterval=0.5,
    )


def seconds_for(
    network: DynamicNetwork,
    source: ImageSource,
    configurations: Sequence[Configuration],
    size: WalkSize,
    device: str,
    dtype: torch.dtype,
    images: float,
) -> float:
    """How long ``images`` images will take, from the MACs a second of a few configurations on a few images.

    A guess within a factor of two: configurations differ in how well they use a machine.
    """
    few = configurations[:: -(-len(configurations) // _TRIED)]
    costs = network.costs.shared(few, source.resolution)
    count = int(min(len(source.keys), size.images * size.walks, max(size.walks, _TRIAL_MACS / costs)))
    loaded = source.load(np.arange(count)).images.to(device, dtype, memory_format=torch.channels_last)
    parts = loaded.tensor_split(min(size.walks, count))
    labels = torch.zeros(count, dtype=torch.int64, device=device)

    def run(part: Tensor) -> None:
        outcomes_of(network, part, labels[: len(part)], few, size.rows)

    with walkers(size.walks) as pool:
        list(pool.map(run, [part[:1] for part in parts]))  # derived kernels are made once
        started = time.monotonic()
        list(pool.map(run, parts))
        seconds = time.monotonic() - started
    return seconds / (count * costs) * images * network.costs.shared(configurations, source.resolution)


@torch.inference_mode()
def outcomes_of(
    network: DynamicNetwork, images: Tensor, labels: Tensor, configurations: Sequence[Configuration], max_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted class and probability of the true class of every image under every configuration.

    Args:
        network: any dynamic network on the images' device and of their dtype.
        images: (N, C, H, W), normalised.
        labels: (N,) int64.
        configurations: K of them.
        max_rows: see :meth:`DynamicNetwork.comprehensive`.

    Returns:
        (N, K) int32 and (N, K) float32. Logits that are not finite count as wrong: class -1, probability 0.
    """
    shape = (len(images), len(configurations))
    predicted = torch.empty(shape, dtype=torch.int32, device=images.device)
    p_true = torch.empty(shape, dtype=torch.float32, device=images.device)
    for columns, logits in network.comprehensive(images, configurations, max_rows):
        logits = logits.float()
        finite = logits.isfinite().all(dim=1)
        chosen = torch.where(finite, logits.argmax(dim=1), -1).to(torch.int32)
        true = torch.where(finite, logits.softmax(dim=1).gather(1, labels[:, None])[:, 0], 0)
        for column in columns:
            predicted[:, column], p_true[:, column] = chosen, true
    return predicted.cpu().numpy(), p_true.cpu().numpy()
