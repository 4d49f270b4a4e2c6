"""Run a portfolio on every image of a run once and keep all that a policy could ask for: features and answers.

Kept in blocks of images, ``OUT/PORTFOLIO/0000000.safetensors`` and so on; an interrupted run goes on behind the
last whole block. Where they are of fewer images than the run has by now, only the others are observed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from dynamic.integrity import read_record, write_arrays, write_record
from dynamic.network import DynamicNetwork
from dynamic.session import Prefix, boundary
from dynamic.walk import Node, walkers
from oracle.data.digests import digest_of
from oracle.data.sources import SPLITS, ImageSource
from oracle.data.views import View, view_source
from oracle.evaluation.evaluate import WalkSize
from oracle.outcomes import compare_identity
from oracle.runs import Run
from oracle.settings import DTYPES
from selector.observation.answers import classes_of, probabilities_of
from selector.observation.costs import Costs
from selector.observation.earlier import IDENTITY, Earlier, block_file, set_aside
from selector.observation.features import VERSION, gridded, pooled
from selector.observation.observations import Observations
from selector.observation.statistics import image_statistics
from selector.observation.stored import IN_MEMORY, Blocks, read_blocks, rows_of

BLOCK = 256
"""Images a file: what an interruption may cost."""

Fill = Callable[[Run, ImageSource, Sequence[Configuration], Mapping[Prefix, str], Sequence[int], Earlier, Path, str], None]
"""Writes blocks: of a run's images under a portfolio, with names of stages by prefix, from these starts on, taking over what
was observed earlier, into a folder, on a device."""

_GROUPS = ("image", "stem", "prefix", "grid", "probabilities")
_EXACT = ("predicted", "p_true")


def observe(
    run: Run,
    source: ImageSource,
    portfolio: Sequence[Configuration],
    out: Path,
    *,
    splits: tuple[str, ...] = SPLITS,
    device: str = "cpu",
    fill: Fill | None = None,
    in_memory: int = IN_MEMORY,
) -> Observations:
    """Observe images under a portfolio, or find what is in ``out`` already. What is large of it stays there.

    Args:
        run: whose network is observed.
        source: its images, or others.
        portfolio: what a policy may choose; the network's default must be in it.
        out: folder in which the portfolio's observations have a folder of their own.
        splits: only these.
        device: where the network runs.
        fill: writes the blocks that are missing; unless given, by running the network.
        in_memory: bytes of all that is read at once; see :func:`selector.observation.stored.read_blocks`.

    Raises:
        UserError: the portfolio lacks the default, or ``out`` holds observations of another network or other images, or
            damaged ones.
    """
    source, network = view_source(source, View(splits=splits)), run.network
    if network.default not in portfolio:
        raise UserError(f"the portfolio lacks the default {network.default.id}, the baseline of every comparison")
    stages, distinct = stage_names(network, portfolio)
    out = out / Space("portfolio", portfolio).digest
    identity = source.identity | {
        "weights": run.digests.weights,
        "statistics": run.digests.statistics,
        "dtype": run.settings.dtype,
        "images": digest_of(source.keys, source.labels),
        "portfolio": " ".join(c.id for c in portfolio),
        "block": str(BLOCK),
        "features": str(VERSION),
    }
    earlier = set_aside(out, identity, source, BLOCK)
    out.mkdir(parents=True, exist_ok=True)
    described = out / IDENTITY
    if not described.exists():
        write_record(described, identity)
    compare_identity(out, read_record(described), identity, "delete this folder, and it is made again")
    starts = range(0, len(source.keys), BLOCK)
    missing = [start for start in starts if not block_file(out, start).exists()]
    if missing:
        (fill or _fill)(run, source, portfolio, distinct, missing, earlier, out, device)
    earlier.drop()
    found = read_blocks(Blocks(tuple(block_file(out, start) for start in starts), BLOCK), _GROUPS, in_memory)
    readable = np.asarray(found.pop("readable"))
    kept: dict[str, Any] = {name: rows_of(values, readable) for name, values in found.items()}
    sides = source.metadata.get("side")
    return Observations(
        keys=source.keys[readable],
        splits=source.splits[readable],
        labels=source.labels[readable],
        sides=None if sides is None else sides[readable],
        portfolio=tuple(portfolio),
        default=list(portfolio).index(network.default),
        digests=run.digests,
        costs=Costs(network, portfolio, source.resolution),
        stages=stages,
        stage_values={name: kept[name] for name in distinct.values()},
        **{name: kept[name] for name in (*_GROUPS, *_EXACT)},
    )


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


def _fill(
    run: Run,
    source: ImageSource,
    portfolio: Sequence[Configuration],
    distinct: Mapping[Prefix, str],
    missing: Sequence[int],
    earlier: Earlier,
    out: Path,
    device: str,
) -> None:
    network, dtype = run.fast_network(device), DTYPES[run.settings.dtype]
    size = WalkSize.fitting(run.network, portfolio, source.resolution, BLOCK, device, None, dtype)
    progress = tqdm(total=len(source.keys), desc=f"{len(portfolio)} configurations", unit="image", file=sys.stderr)
    progress.update(len(source.keys) - sum(min(BLOCK, len(source.keys) - start) for start in missing))
    with progress, walkers(size.walks) as pool:
        for start in missing:
            block = np.arange(start, min(start + BLOCK, len(source.keys)))
            known = earlier.has(block)
            rows = block[~known]
            made = [earlier.take(block[known])] if known.any() else []
            if len(rows):
                batch = source.load(rows)
                step = min(size.images, 32)
                parts = [np.arange(at, min(at + step, len(rows))) for at in range(0, len(rows), step)]
                labels = source.labels[rows]

                def observed(
                    part: np.ndarray, images: Tensor = batch.images, labels: np.ndarray = labels
                ) -> dict[str, np.ndarray]:
                    prepared = images[torch.from_numpy(part)].to(device, dtype, memory_format=torch.channels_last)
                    return observe_batch(network, prepared, labels[part], portfolio, distinct, size.rows)

                of_parts = list(pool.map(observed, parts))
                joined = {name: np.concatenate([part[name] for part in of_parts]) for name in of_parts[0]}
                made.append(joined | {"readable": batch.readable})
            order = np.argsort(np.concatenate([block[known], rows]))
            write_arrays(
                block_file(out, start), {name: np.concatenate([part[name] for part in made])[order] for name in made[0]}
            )
            progress.update(len(block))


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
    kept = {name: value if name in _EXACT else halved(value) for name, value in found.items()}
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
