"""Run a portfolio on every image of a run once and keep all that a policy could ask for: features and answers.

Kept in blocks of images, ``OUT/PORTFOLIO/0000000.safetensors`` and so on; an interrupted run goes on behind the
last whole block.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import Tensor
from tqdm import tqdm

from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.network import DynamicNetwork
from dynamic.session import boundary
from dynamic.walk import Node, walkers
from oracle.data.sources import SPLITS, ImageSource, digest_of
from oracle.data.views import View, view_source
from oracle.evaluation.collect import Collection, fast_network, store_identity
from oracle.evaluation.evaluate import WalkSize
from oracle.evaluation.outcomes import compare_identity
from oracle.settings import DTYPES
from selector.observation.costs import Costs, Prefix
from selector.observation.features import gridded, image_statistics, pooled

BLOCK = 256
"""Images a file: what an interruption may cost."""


@dataclass(frozen=True)
class Observations:
    """Everything a policy could see of some images, and their labels.

    Attributes:
        keys, splits, labels: (N,) of the images.
        sides: (N,) true object sides in pixels where known, else None.
        portfolio: K configurations.
        default: column of the network's default.
        costs: of the portfolio.
        image, stem, prefix: (N, features) float32; see :mod:`selector.observation.features`.
        grid: (N, channels, 6, 6) float32, the group ``map``.
        stages: by layer and portfolio column, the name of its (N, features) array in ``stage_values``.
        probabilities: (N, K, classes) float32, zeros where an answer is not finite.
    """

    keys: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    sides: np.ndarray | None
    portfolio: tuple[Configuration, ...]
    default: int
    costs: Costs
    image: np.ndarray
    stem: np.ndarray
    prefix: np.ndarray
    grid: np.ndarray
    stages: tuple[tuple[str, ...], ...]
    stage_values: Mapping[str, np.ndarray]
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def predicted(self) -> np.ndarray:
        """(N, K) classes; -1 where an answer is not finite."""
        return np.where(self.probabilities.any(axis=2), self.probabilities.argmax(axis=2), -1)

    @property
    def correct(self) -> np.ndarray:
        """(N, K) bool."""
        return self.predicted == self.labels[:, None]

    def rows(self, kept: np.ndarray) -> Observations:
        """The same of some images, by position or mask."""
        arrays = {name: getattr(self, name)[kept] for name in _ROWS}
        stages = {name: values[kept] for name, values in self.stage_values.items()}
        return replace(self, **arrays, sides=None if self.sides is None else self.sides[kept], stage_values=stages)

    def among(self, portfolio: Sequence[Configuration], network: DynamicNetwork, resolution: int) -> Observations:
        """The same with only some configurations, the default among them."""
        kept = [self.portfolio.index(c) for c in portfolio]
        return replace(
            self,
            portfolio=tuple(portfolio),
            default=kept.index(self.default),
            costs=Costs(network, portfolio, resolution),
            stages=tuple(tuple(stage[column] for column in kept) for stage in self.stages),
            probabilities=self.probabilities[:, kept],
        )

    def split(self, name: str) -> Observations:
        """The images of one split."""
        return self.rows(self.splits == name)


_ROWS = ("keys", "splits", "labels", "image", "stem", "prefix", "grid", "probabilities")
_GROUPS = ("image", "stem", "prefix", "grid", "probabilities")


def rounded(values: np.ndarray) -> np.ndarray:
    """What is left of values after they were stored in half precision; live features are rounded likewise."""
    return np.clip(values, -65504, 65504).astype(np.float16).astype(np.float32)


def observe(
    collection: Collection, portfolio: Sequence[Configuration], out: Path, splits: tuple[str, ...] = SPLITS
) -> Observations:
    """Observe the images of a run under a portfolio, or read what is in ``out`` already.

    Args:
        collection: the run, from :func:`oracle.evaluation.collect.reopen`; the portfolio is among its configurations.
        portfolio: what a policy may choose; the network's default must be in it.
        out: folder in which the portfolio's observations have a folder of their own.
        splits: only these.

    Raises:
        UserError: the portfolio lacks the default, or ``out`` holds observations of another run or portfolio.
    """
    source, network = view_source(collection.source, View(splits=splits)), collection.network
    if network.default not in portfolio:
        raise UserError(f"the portfolio lacks the default {network.default.id}, the baseline of every comparison")
    stages, distinct = _stages(network, portfolio)
    out = out / Space("portfolio", portfolio).digest
    out.mkdir(parents=True, exist_ok=True)
    identity = {
        key: value for key, value in store_identity(collection).items() if key not in ("region", "memory_gib", "device")
    }
    identity |= {
        "images": digest_of(source.keys, source.labels),
        "portfolio": " ".join(c.id for c in portfolio),
        "block": str(BLOCK),
    }
    if not (out / "identity.json").exists():
        write_whole(out / "identity.json", json.dumps(identity, indent=1).encode())
    compare_identity(out / "identity.json", json.loads((out / "identity.json").read_text()), identity)
    starts = range(0, len(source.keys), BLOCK)
    missing = [start for start in starts if not _block(out, start).exists()]
    if missing:
        _fill(collection, source, portfolio, distinct, missing, out)
    blocks = [load_file(_block(out, start)) for start in starts]
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    del blocks
    readable = joined.pop("readable")
    sides = source.metadata.get("side")
    return Observations(
        keys=source.keys[readable],
        splits=source.splits[readable],
        labels=source.labels[readable],
        sides=None if sides is None else sides[readable],
        portfolio=tuple(portfolio),
        default=list(portfolio).index(network.default),
        costs=Costs(network, portfolio, source.resolution),
        stages=stages,
        stage_values={name: joined[name][readable] for name in distinct.values()},
        **{name: joined[name][readable].astype(np.float32) for name in _GROUPS},
    )


def _block(out: Path, start: int) -> Path:
    return out / f"{start:07d}.safetensors"


def _stages(
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
    collection: Collection,
    source: ImageSource,
    portfolio: Sequence[Configuration],
    distinct: Mapping[Prefix, str],
    missing: Sequence[int],
    out: Path,
) -> None:
    settings = collection.settings
    network = fast_network(collection)
    dtype = DTYPES[settings.dtype]
    size = WalkSize.fitting(
        collection.network, portfolio, source.resolution, BLOCK, settings.device, settings.memory_gib, dtype
    )
    progress = tqdm(total=len(source.keys), desc=f"{len(portfolio)} configurations", unit="image", file=sys.stderr)
    progress.update(len(source.keys) - sum(min(BLOCK, len(source.keys) - start) for start in missing))
    with progress, walkers(size.walks) as pool:
        for start in missing:
            rows = np.arange(start, min(start + BLOCK, len(source.keys)))
            batch = source.load(rows)
            parts = [rows[at : at + min(size.images, 32)] - start for at in range(0, len(rows), min(size.images, 32))]

            def run(part: np.ndarray, images: Tensor = batch.images) -> dict[str, np.ndarray]:
                prepared = images[torch.from_numpy(part)].to(settings.device, dtype, memory_format=torch.channels_last)
                return observed(network, prepared, portfolio, distinct, size.rows)

            made = list(pool.map(run, parts))
            values = {name: np.concatenate([part[name] for part in made]) for name in made[0]}
            write_whole(_block(out, start), save(values | {"readable": batch.readable}))
            progress.update(len(rows))


@torch.inference_mode()
def observed(
    network: DynamicNetwork,
    images: Tensor,
    portfolio: Sequence[Configuration],
    distinct: Mapping[Prefix, str],
    max_rows: int,
) -> dict[str, np.ndarray]:
    """Everything about one batch, in half precision, by name."""
    sites = network.program.sites
    first = boundary(network, min(1, len(network.dynamic_layers) - 1))
    default = tuple(site.option(network.default) for site in sites[:first])
    found: dict[str, Tensor] = {"image": image_statistics(images)}

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

    probabilities: Tensor | None = None
    for columns, logits in network.comprehensive(images, portfolio, max_rows, visit):
        finite = logits.isfinite().all(dim=1, keepdim=True)
        answer = torch.where(finite, logits.float().softmax(dim=1), 0).cpu()
        if probabilities is None:
            probabilities = torch.empty(len(images), len(portfolio), answer.shape[1])
        probabilities[:, columns] = answer[:, None]
    assert probabilities is not None
    found["prefix"] = torch.cat([found["stem"], found.pop("behind")], dim=1)
    found["probabilities"] = probabilities
    return {name: value.clamp(-65504, 65504).half().numpy() for name, value in found.items()}
