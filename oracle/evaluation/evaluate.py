"""Comprehensive evaluation: every image of a source under every configuration, into the outcomes store."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.network import DynamicNetwork
from dynamic.resources import available_memory, cpu_count
from dynamic.walk import walkers
from oracle.data.sources import Batch, ImageSource
from oracle.outcomes import EVALUATED, PENDING, OutcomesStore

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


def evaluate(
    network: DynamicNetwork,
    source: ImageSource,
    configurations: Sequence[Configuration],
    store: OutcomesStore,
    size: WalkSize,
    device: str,
    dtype: torch.dtype,
) -> dict[str, str]:
    """Evaluate the regions of ``store`` that are not done yet, with a progress bar on stderr.

    Args:
        network: as :meth:`DynamicNetwork.for_inference` made it, on ``device`` in ``dtype``.
        source: the images.
        configurations: the store's columns.
        store: receives predictions and probabilities, region by region.
        size: see :class:`WalkSize`.
        device, dtype: where and in what the images run.

    Returns:
        What was wrong with the images that could not be read, by key.
    """
    problems: dict[str, str] = {}
    done = int((store.status != PENDING).sum())
    progress = tqdm(
        total=len(store.status),
        initial=done,
        desc=f"{len(configurations)} configurations",
        unit="image",
        smoothing=0.1,
        file=sys.stderr,
        mininterval=0.5,
    )
    # One region is read while the one before it runs.
    with progress, walkers(size.walks) as pool, ThreadPoolExecutor(1) as reader:
        regions = store.pending()
        ahead = [reader.submit(source.load, regions[0])] if regions else []
        for position, rows in enumerate(regions):
            batch: Batch = ahead.pop().result()
            if position + 1 < len(regions):
                ahead.append(reader.submit(source.load, regions[position + 1]))
            predicted = np.full((len(rows), len(configurations)), -1, dtype=np.int32)
            p_true = np.zeros((len(rows), len(configurations)), dtype=np.float32)
            readable = np.flatnonzero(batch.readable)
            parts = [readable[start : start + size.images] for start in range(0, len(readable), size.images)]

            def run(part: np.ndarray, batch: Batch = batch, rows: np.ndarray = rows) -> tuple[np.ndarray, np.ndarray]:
                images = batch.images[torch.from_numpy(part)].to(device, dtype, memory_format=torch.channels_last)
                labels = torch.from_numpy(source.labels[rows[part]]).to(device)
                return outcomes_of(network, images, labels, configurations, size.rows)

            for part, found in zip(parts, pool.map(run, parts), strict=True):
                predicted[part], p_true[part] = found
            store.write(rows, predicted, p_true, batch.readable)
            for key, reason in batch.problems.items():
                progress.write(f"skipped {key}: {reason}", file=sys.stderr)
            problems |= batch.problems
            progress.update(len(rows))
    assert (store.status >= EVALUATED).all()
    return problems


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
