"""What is observed of a batch of images under a portfolio, and the job that does it for a block of a run's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamic.configuration import Configuration, Space
from dynamic.models import LoadedNetwork
from dynamic.network import DynamicNetwork
from dynamic.norms import Statistics
from dynamic.session import Prefix, boundary
from dynamic.walk import Node
from oracle.data.sources import Batch, ImageSource
from oracle.evaluation.evaluate import WalkSize
from oracle.evaluation.jobs import threads_of_walks
from oracle.settings import DTYPES
from selector.observation.answers import classes_of, probabilities_of
from selector.observation.features import gridded, pooled
from selector.observation.statistics import image_statistics

EXACT = ("predicted", "p_true")
"""What is not rounded."""


@dataclass(frozen=True, kw_only=True)
class ObservingJob:
    """Everything about the images of a block; see :class:`oracle.evaluation.jobs.Job`.

    Attributes:
        configurations: the portfolio.
        size: what runs at once.
        threads: of the walk where there is one.
        dtype: name of the type that the network runs in.
        statistics: recalibrated batch norms; None where the network keeps its own.
    """

    configurations: Space
    size: WalkSize
    threads: int
    dtype: str
    statistics: Statistics | None

    def opened(
        self, network: LoadedNetwork, source: ImageSource, device: str, cores: int | None = None
    ) -> Callable[[np.ndarray, Batch], Observed]:
        """See :class:`oracle.evaluation.jobs.Job`."""
        dtype, portfolio, size = DTYPES[self.dtype], list(self.configurations), self.size
        fast, distinct = network.for_inference(device, dtype, self.statistics), stage_names(network, portfolio)[1]
        pool, step = threads_of_walks(size.walks, self.threads, cores), min(size.images, 32)

        def compute(rows: np.ndarray, batch: Batch) -> Observed:
            labels = source.labels[rows]

            def observed(part: np.ndarray) -> dict[str, np.ndarray]:
                prepared = batch.images[torch.from_numpy(part)].to(device, dtype, memory_format=torch.channels_last)
                return observe_batch(fast, prepared, labels[part], portfolio, distinct, size.rows)

            parts = list(pool.map(observed, [np.arange(at, min(at + step, len(rows))) for at in range(0, len(rows), step)]))
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            return Observed(rows=rows, arrays=joined | {"readable": batch.readable}, problems=batch.problems)

        return compute


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What came out of some rows.

    Attributes:
        rows: (images,) of the source.
        arrays: by name, (images, ...) each, among them ``readable``.
        problems: what was wrong with unreadable images, by key.
    """

    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    problems: dict[str, str]


def stage_names(
    network: DynamicNetwork, portfolio: Sequence[Configuration]
) -> tuple[tuple[tuple[str, ...], ...], dict[Prefix, str]]:
    """Names of what each layer reads under each configuration; and by prefix of options, each once."""
    sites = network.program.sites
    distinct: dict[Prefix, str] = {}
    stages = []
    for layer in range(len(network.dynamic_layers)):
        depth = boundary(network, layer)
        prefixes = [tuple(site.option(c) for site in sites[:depth]) for c in portfolio]
        for prefix in prefixes:
            distinct.setdefault(prefix, f"stage_{layer}_{len(distinct)}")
        stages.append(tuple(distinct[prefix] for prefix in prefixes))
    return tuple(stages), distinct


def observe_batch(
    network: DynamicNetwork,
    images: Tensor,
    labels: np.ndarray,
    portfolio: Sequence[Configuration],
    distinct: Mapping[Prefix, str],
    max_rows: int,
) -> dict[str, np.ndarray]:
    """:func:`look_at_batch` as it is kept: features and probabilities in half precision, the rest in full."""
    found = look_at_batch(network, images, portfolio, distinct, max_rows)
    p_true = found["probabilities"][np.arange(len(labels)), :, labels]
    kept = {name: value if name in EXACT else halved(value) for name, value in found.items()}
    return kept | {"p_true": p_true}


def halved(values: np.ndarray) -> np.ndarray:
    """In half precision; what is too large for it is the largest number that it has."""
    return np.clip(values, -65504, 65504).astype(np.float16)


@torch.inference_mode()
def look_at_batch(
    network: DynamicNetwork,
    images: Tensor,
    portfolio: Sequence[Configuration],
    distinct: Mapping[Prefix, str],
    max_rows: int,
) -> dict[str, np.ndarray]:
    """Everything about one batch, by name: ``predicted`` int32, features and ``probabilities`` float32, unrounded.

    Args:
        network: as :meth:`DynamicNetwork.for_inference` made it.
        images: (N, C, H, W), normalised, on its device and of its dtype.
        portfolio: K configurations.
        distinct: names of what layers read, by prefix of options.
        max_rows: see :meth:`DynamicNetwork.comprehensive`.
    """
    sites = network.program.sites
    first = boundary(network, min(1, len(network.dynamic_layers) - 1))
    default = tuple(site.option(network.default) for site in sites[:first])
    found: dict[str, Tensor] = {"image": torch.from_numpy(image_statistics(images.float().cpu().numpy()))}

    def visit(index: int, nodes: Sequence[Node], state: Mapping[str, Tensor]) -> None:
        wanted = [node.prefix in distinct or node.prefix == default for node in nodes]
        if not any(wanted):
            return
        start = 0
        for node, is_wanted in zip(nodes, wanted, strict=True):
            values = [state[name][start : start + len(node.images)] for name in sorted(state)]
            start += len(node.images)
            if not is_wanted:
                continue
            summary = pooled(values)
            if node.prefix in distinct:
                found[distinct[node.prefix]] = summary
            if index == 0:
                found["stem"] = summary
            if node.prefix == default:
                found["behind"], found["grid"] = summary, gridded(values)

    probabilities: np.ndarray | None = None
    predicted = np.empty((len(images), len(portfolio)), np.int32)
    for columns, logits in network.comprehensive(images, portfolio, max_rows, visit):
        answers = logits.float().cpu().numpy()
        answer = probabilities_of(answers)
        if probabilities is None:
            probabilities = np.empty((len(images), len(portfolio), answer.shape[1]), np.float32)
        probabilities[:, columns] = answer[:, None]
        predicted[:, columns] = classes_of(answers)[:, None]
    assert probabilities is not None
    found["prefix"] = torch.cat([found["stem"], found.pop("behind")], dim=1)
    return {name: value.numpy() for name, value in found.items()} | {"probabilities": probabilities, "predicted": predicted}
