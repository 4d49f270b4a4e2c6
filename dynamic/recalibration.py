"""Batch-norm statistics of each configuration, re-estimated on unlabelled images; no learned weight changes.

Under options that a network was not trained with, activations have other means and variances than its batch norms subtract
and divide by. What reaches a batch norm depends only on the options of the sites before it, so statistics are kept once for
each such prefix: for 4096 configurations of four layers 8 + 64 + 512 + 4096 sets, most of which serve the last stage only.

    statistics = recalibrate(network, images, space)
    fast = network.for_inference(statistics=statistics)      # comprehensive() and mixed batches, at no extra MACs
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.layers import Option
from dynamic.tracing import Program, Segment, trace
from dynamic.walk import Node, comprehensive_plan, walk, walkers

if TYPE_CHECKING:
    from dynamic.network import DynamicNetwork

Prefix = tuple[Option, ...]

BATCH = 128
"""Images whose statistics are taken together."""


@dataclass(frozen=True)
class Statistics:
    """What every batch norm subtracts and divides by, for every prefix of options.

    Attributes:
        prefixes: by segment, the position of each prefix in ``moments``.
        moments: by segment, (prefixes, 2, channels) float32: means and variances, of all its batch norms side by side.
        weights_digest: of the network they belong to.
        images: how many they were estimated on.
    """

    prefixes: tuple[dict[Prefix, int], ...]
    moments: tuple[Tensor, ...]
    weights_digest: str
    images: int

    @property
    def digest(self) -> str:
        """Short hash of everything."""
        hashed = sha256(f"{self.weights_digest} {self.images}".encode())
        for known, moments in zip(self.prefixes, self.moments, strict=True):
            hashed.update(repr(list(known)).encode())
            hashed.update(moments.contiguous().numpy().tobytes())
        return hashed.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {}
        for index, (known, moments) in enumerate(zip(self.prefixes, self.moments, strict=True)):
            tensors[f"moments.{index}"] = moments.contiguous()
            tensors[f"prefixes.{index}"] = torch.tensor([*map(list, known)]).reshape(len(known), index, 3).float()
        facts = {"weights_digest": self.weights_digest, "images": str(self.images), "segments": str(len(self.moments))}
        write_whole(path, save(tensors, metadata={"statistics": json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what :meth:`save` wrote. Raises UserError where ``path`` is not such a file."""
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["statistics"])
                segments = range(int(facts["segments"]))
                moments = tuple(file.get_tensor(f"moments.{index}") for index in segments)
                rows = [file.get_tensor(f"prefixes.{index}").tolist() for index in segments]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} holds no batch-norm statistics of this project: {error}") from error
        prefixes = tuple(
            {
                tuple(Option(s if s == 0.5 else int(s), int(d), int(k)) for s, d, k in row): position
                for position, row in enumerate(part)
            }
            for part in rows
        )
        return cls(prefixes, moments, facts["weights_digest"], int(facts["images"]))


@torch.inference_mode()
def recalibrate(
    network: DynamicNetwork,
    images: Tensor,
    configurations: Sequence[Configuration],
    *,
    batch: int = BATCH,
    max_rows: int = 128,
    device: str = "cpu",
    threads: int = 1,
    keep_default: bool = False,
) -> Statistics:
    """Estimate statistics for every prefix that ``configurations`` have.

    One walk over the tree of options: at every batch norm the activations are normalised by their own mean and variance, as
    in training, which are averaged over the batches.

    Args:
        network: as :func:`dynamic.load` gives it.
        images: (N, 3, H, W) float32, normalised. Their labels are not needed.
        configurations: a space, or any sequence.
        batch: at most so many images' statistics are taken together. Few make poor statistics: on the slim ResNet-50 2 cost
            a quarter of the default's accuracy.
        max_rows: see :meth:`DynamicNetwork.comprehensive`.
        device: where to run.
        threads: batches run side by side, each in a thread.
        keep_default: leave the default configuration, and whatever shares its prefixes, the network's own statistics.

    Raises:
        UserError: fewer than two images, or a network whose batch norms, if it has any, are not torch.nn.BatchNorm2d.
    """
    if len(images) < 2:
        raise UserError(f"batch-norm statistics need at least two images, not {len(images)}")
    for configuration in configurations:
        network.check(configuration)
    if not can_recalibrate(network):
        raise UserError(
            f"{type(network.original).__name__} cannot be recalibrated: it has no batch norms, or other than nn.BatchNorm2d"
        )
    dtype = next(network.parameters()).dtype
    prepared = network.copied("by_prefix", device, dtype)

    def run(part: Tensor) -> _Observed:
        observed = _Observed(prepared.program, len(part), prepared.default if keep_default else None)
        with torch.inference_mode():
            part = part.to(device, dtype, memory_format=torch.channels_last)
            plan = comprehensive_plan(prepared.program, configurations, len(part))
            for _ in walk(prepared.program, part, plan, max_rows, observed):
                pass
        return observed

    prefixes: list[dict[Prefix, int]] = []
    sums: list[Tensor] = []
    with walkers(threads) as pool:
        for observed in pool.map(run, images.tensor_split(-(-len(images) // batch))):
            weight = observed.images / len(images)
            if not prefixes:
                prefixes = [{prefix: i for i, prefix in enumerate(found)} for found in observed.found]
                sums = [torch.zeros(len(found), *next(iter(found.values())).shape).double() for found in observed.found]
            for known, total, found in zip(prefixes, sums, observed.found, strict=True):
                for prefix, seen in found.items():
                    total[known[prefix]] += weight * seen
            observed.found.clear()
    means_squares = [total.unbind(1) for total in sums]
    moments = [torch.stack([means, (squares - means**2).clamp(min=0)], dim=1).float() for means, squares in means_squares]
    return Statistics(tuple(prefixes), tuple(moments), network.digest, len(images))


def can_recalibrate(network: DynamicNetwork) -> bool:
    """Whether the walk can provide all batch norms of a network, and it has some."""
    segments = trace(network.original, network.dynamic_layers, "by_prefix").segments
    nodes = [node for segment in segments for node in segment.module.graph.nodes]
    return any(segment.norms for segment in segments) and all(node.target is not F.batch_norm for node in nodes)


class _Observed:
    """Normalises by what it sees, and remembers it: E[x] and E[x^2] by segment and prefix, (2, channels) float64."""

    def __init__(self, program: Program, images: int, kept: Configuration | None) -> None:
        self._segments = program.segments
        options = [] if kept is None else [site.option(kept) for site in program.sites]
        self._kept = {tuple(options[:depth]) for depth in range(len(options) + 1)} if kept else set()
        self.images = images
        self.found: list[dict[Prefix, Tensor]] = [{} for _ in program.segments]

    def at(self, segment: int, nodes: Sequence[Node]) -> _Observing:
        channels = _channels(self._segments[segment])
        found = self.found[segment]
        for node in nodes:
            found[node.prefix] = torch.empty(2, channels[-1], dtype=torch.float64)
        kept = [node.prefix in self._kept for node in nodes]
        return _Observing(self._segments[segment].norms, channels, [found[node.prefix] for node in nodes], kept)


class _Observing:
    def __init__(
        self, norms: Sequence[nn.BatchNorm2d], channels: list[int], targets: list[Tensor], kept: list[bool]
    ) -> None:
        self._norms, self._channels, self._targets, self._kept = norms, channels, targets, kept

    def normalise(self, x: Tensor, index: int) -> Tensor:
        norm, nodes = self._norms[index], len(self._targets)
        # Channels last, so that this is a view: (nodes, images * H * W, channels).
        seen = x.permute(0, 2, 3, 1).reshape(nodes, -1, x.shape[1])
        mean = seen.mean(dim=1)
        variance = (seen - mean[:, None]).square_().mean(dim=1)  # fifteen times as fast as torch.var_mean on a CPU
        if norm.running_mean is not None and norm.running_var is not None:
            for position in np.flatnonzero(self._kept).tolist():
                mean[position], variance[position] = norm.running_mean, norm.running_var
        start, stop = self._channels[index : index + 2]
        stored_mean, stored_variance = mean.double().cpu(), variance.double().cpu()
        for position, target in enumerate(self._targets):
            target[0, start:stop] = stored_mean[position]
            target[1, start:stop] = stored_variance[position] + stored_mean[position] ** 2
        scale, shift = _affine(norm, mean, variance)
        return _apply(x, scale, shift, [len(x) // nodes] * nodes)


class PrefixNorms:
    """Normalises by stored statistics: what the walk of a recalibrated network asks.

    Args:
        program: traced with batch norms ``by_prefix``.
        statistics: for this network.
        device, dtype: of the activations.
    """

    def __init__(self, program: Program, statistics: Statistics, device: str | torch.device, dtype: torch.dtype) -> None:
        self._statistics = statistics
        self._channels = [_channels(segment) for segment in program.segments]
        if [channels[-1] for channels in self._channels] != [moments.shape[2] for moments in statistics.moments]:
            raise UserError("these batch-norm statistics belong to another network or other dynamic layers")
        self._affine = []
        for segment, channels, moments in zip(program.segments, self._channels, statistics.moments, strict=True):
            parts = [
                _affine(norm.cpu(), *moments[:, :, start:stop].unbind(1))
                for norm, start, stop in zip(segment.norms, channels[:-1], channels[1:], strict=True)
            ]
            sides = [torch.cat(side, dim=1) for side in zip(*parts, strict=True)] if parts else [moments[:, 0]] * 2
            self._affine.append(torch.stack(sides).detach().to(device, dtype))

    def at(self, segment: int, nodes: Sequence[Node]) -> _Stored:
        """See :class:`dynamic.walk.Norms`. Raises UserError where there are no statistics for a prefix."""
        known = self._statistics.prefixes[segment]
        try:
            positions = [known[node.prefix] for node in nodes]
        except KeyError as error:
            options = "; ".join(map(str, error.args[0]))
            raise UserError(f"no batch-norm statistics for options {options}: recalibrate for this configuration") from None
        scales, shifts = self._affine[segment][:, positions]
        return _Stored(self._channels[segment], scales, shifts, [len(node.images) for node in nodes])


class _Stored:
    def __init__(self, channels: list[int], scales: Tensor, shifts: Tensor, rows: list[int]) -> None:
        self._channels, self._scales, self._shifts, self._rows = channels, scales, shifts, rows

    def normalise(self, x: Tensor, index: int) -> Tensor:
        start, stop = self._channels[index : index + 2]
        return _apply(x, self._scales[:, start:stop], self._shifts[:, start:stop], self._rows)


def _channels(segment: Segment) -> list[int]:
    """Where each batch norm's channels begin among all of a segment's, and their number."""
    starts = [0]
    for norm in segment.norms:
        starts.append(starts[-1] + norm.num_features)
    return starts


def _affine(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, (prefixes, channels), that subtract ``mean``, divide by the deviation and do what was learned."""
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(scale)
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.to(scale)
    return scale, shift


def _apply(x: Tensor, scale: Tensor, shift: Tensor, rows: list[int]) -> Tensor:
    """``x * scale + shift`` with (nodes, channels) factors, where node i has ``rows[i]`` rows of ``x``."""
    if len(rows) > 1:
        repeats = torch.tensor(rows, device=x.device)
        scale, shift = (factor.repeat_interleave(repeats, dim=0, output_size=len(x)) for factor in (scale, shift))
    scale, shift = (factor.to(x.dtype)[:, :, None, None] for factor in (scale, shift))
    return torch.addcmul(shift, x, scale)
