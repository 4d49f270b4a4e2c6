"""Comprehensive evaluation: every image of a source under every configuration, into the outcomes store.

A region is evaluated by a function of nothing but itself (:class:`RegionEvaluator`), wherever that runs; whoever runs the
evaluators yields finished regions (:func:`evaluated_here`, :mod:`oracle.evaluation.dispatch`), and one writer stores them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

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


class RegionEvaluator:
    """Evaluates regions, one at a time; the result depends on nothing but the region and what is given here.

    Args:
        network: as :meth:`DynamicNetwork.for_inference` made it, on ``device`` in ``dtype``.
        source: the images.
        configurations: the columns.
        size: see :class:`WalkSize`.
        device, dtype: where and in what the images run.
        threads: of each walk on a CPU where ``size`` has one walk; several walks have one each. The number decides the last
            bits too.
        cores: most walks that run side by side here; fewer than ``size.walks`` take longer and change nothing.
    """

    def __init__(
        self,
        network: DynamicNetwork,
        source: ImageSource,
        configurations: Sequence[Configuration],
        size: WalkSize,
        device: str,
        dtype: torch.dtype,
        threads: int,
        cores: int | None = None,
    ) -> None:
        self._network, self._source, self._configurations = network, source, configurations
        self._size, self._device, self._dtype = size, device, dtype
        self._pool = ThreadPoolExecutor(
            min(size.walks, cores or size.walks),
            initializer=torch.set_num_threads,
            initargs=(1 if size.walks > 1 else threads,),
        )

    def __enter__(self) -> RegionEvaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def load(self, rows: np.ndarray, without: Mapping[int, str] = MappingProxyType({})) -> Batch:
        """Read some rows; those of ``without`` count as unreadable, for the reason it gives, and are not touched."""
        if not without:
            return self._source.load(rows)
        kept = ~np.isin(rows, list(without))
        part = self._source.load(rows[kept])
        images = torch.zeros(len(rows), *part.images.shape[1:])
        images[torch.from_numpy(kept)] = part.images
        readable = np.zeros(len(rows), bool)
        readable[kept] = part.readable
        left_out = {str(self._source.keys[row]): without[row] for row in rows[~kept].tolist()}
        return Batch(images=images, readable=readable, problems=part.problems | left_out)

    def compute(self, rows: np.ndarray, batch: Batch) -> Region:
        """Run every configuration on what :meth:`load` read of ``rows``."""
        predicted = np.full((len(rows), len(self._configurations)), -1, dtype=np.int32)
        p_true = np.zeros((len(rows), len(self._configurations)), dtype=np.float32)
        readable, images = np.flatnonzero(batch.readable), self._size.images
        parts = [readable[start : start + images] for start in range(0, len(readable), images)]

        def run(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            chosen = batch.images[torch.from_numpy(part)].to(self._device, self._dtype, memory_format=torch.channels_last)
            labels = torch.from_numpy(self._source.labels[rows[part]]).to(self._device)
            return outcomes_of(self._network, chosen, labels, self._configurations, self._size.rows)

        for part, found in zip(parts, self._pool.map(run, parts), strict=True):
            predicted[part], p_true[part] = found
        return Region(rows=rows, predicted=predicted, p_true=p_true, readable=batch.readable, problems=batch.problems)


def evaluated_here(evaluator: RegionEvaluator, regions: Sequence[np.ndarray]) -> Generator[Region, None, None]:
    """The regions one after the other in this process; one is read while the one before it runs."""
    with evaluator, ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(evaluator.load, regions[0])] if regions else []
        for position, rows in enumerate(regions):
            batch = ahead.pop().result()
            if position + 1 < len(regions):
                ahead.append(reader.submit(evaluator.load, regions[position + 1]))
            yield evaluator.compute(rows, batch)


def store_regions(finished: Iterable[Region], store: OutcomesStore, progress: tqdm[NoReturn]) -> None:
    """Write every region of ``store`` that is not done yet, in whatever order they come; the one writer of a run.

    Args:
        finished: all of ``store.pending()``.
        store: receives predictions and probabilities, region by region.
        progress: counts images; see :func:`progress_of`.
    """
    for region in finished:
        store.write(region.rows, region.predicted, region.p_true, region.readable)
        for key, reason in region.problems.items():
            progress.write(f"skipped {key}: {reason}", file=sys.stderr)
        progress.update(len(region.rows))
    assert (store.status >= EVALUATED).all()


def progress_of(store: OutcomesStore, configurations: Sequence[Configuration]) -> tqdm[NoReturn]:
    """A progress bar on stderr over the images of a store: rate and time left."""
    return tqdm(
        total=len(store.status),
        initial=int((store.status != PENDING).sum()),
        desc=f"{len(configurations)} configurations",
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
