"""Batch norms that depend on the options so far, as they run: stored statistics and what the walk asks of them.

What reaches a batch norm depends only on the options of the sites before it, its *prefix*, so statistics are kept once for
each. :mod:`dynamic.recalibration` estimates them; it lies above the network, this module below it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dynamic.attributes.registry import built_in
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.option import Option
from dynamic.tracing import Program, Segment
from dynamic.walk import Node

Prefix = tuple[Option, ...]


@dataclass(frozen=True)
class Statistics:
    """What every batch norm subtracts and divides by, for every prefix of options.

    Attributes:
        prefixes: by segment, the position of each prefix in ``moments``.
        moments: by segment, (prefixes, 2, channels) float32: means and variances, of all its batch norms side by side.
        weights_digest: of the network they belong to.
        images: the number of images that they were estimated on.
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
        """Write one safetensors file, with its :attr:`digest` inside."""
        tensors = {}
        further = {name for known in self.prefixes for prefix in known for option in prefix for name, _ in option.further}
        names = [*built_in(), *sorted(further)]
        for index, (known, moments) in enumerate(zip(self.prefixes, self.moments, strict=True)):
            tensors[f"moments.{index}"] = moments.contiguous()
            options = [[option.of(name) for option in prefix for name in names] for prefix in known]
            table = torch.tensor(options, dtype=torch.float64 if further else torch.float32)
            tensors[f"prefixes.{index}"] = table.reshape(len(known), index, len(names))
        facts = {
            "weights_digest": self.weights_digest,
            "images": str(self.images),
            "segments": str(len(self.moments)),
            "digest": self.digest,
            **({"further": sorted(further)} if further else {}),
        }
        write_whole(path, save(tensors, metadata={"statistics": json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: no such file, not such a file, one whose content does not give the digest that it was written with,
                or one of an earlier version, which carries none.
        """
        try:
            statistics, written = _read(path)
        except (OSError, SafetensorError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{path} holds no batch-norm statistics of this project: {reason}") from error
        if written is None:
            raise UserError(f"{path} was made by an earlier version, without a digest of its content: recalibrate anew")
        if written != statistics.digest:
            raise UserError(f"{path} is damaged: its content is not what was written (digest {written}); recalibrate anew")
        return statistics


def _read(path: Path) -> tuple[Statistics, str | None]:
    """The statistics in a file and the digest that it says they have; any of a dozen errors where it is another file."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["statistics"])
        segments = range(int(facts["segments"]))
        moments = tuple(file.get_tensor(f"moments.{index}") for index in segments)
        rows = [file.get_tensor(f"prefixes.{index}").tolist() for index in segments]
    # The digest is of bytes, which say nothing of types and shapes.
    for known, tensor in zip(rows, moments, strict=True):
        if tensor.dtype != torch.float32 or tensor.ndim != 3 or tensor.shape[:2] != (len(known), 2):
            raise ValueError(f"moments of {len(known)} prefixes are {tensor.dtype} of shape {tuple(tensor.shape)}")
    further = facts.get("further", [])
    prefixes = tuple({_prefix(row, further): position for position, row in enumerate(known)} for known in rows)
    return Statistics(prefixes, moments, facts["weights_digest"], int(facts["images"])), facts.get("digest")


def _prefix(row: list[list[float]], further: list[str]) -> Prefix:
    for option in row:
        if any(number != int(number) and (number != 0.5 or place) for place, number in enumerate(option[:3])):
            raise ValueError(f"{option} are no options")
    return tuple(
        Option(s if s == 0.5 else int(s), int(d), int(k)).changed(dict(zip(further, own, strict=True)))
        for s, d, k, *own in row
    )


class PrefixNorms:
    """Normalises by stored statistics: what the walk of a recalibrated network asks.

    Args:
        program: traced with batch norms ``by_prefix``.
        statistics: for this network.
        device, dtype: of the activations.
    """

    def __init__(self, program: Program, statistics: Statistics, device: str | torch.device, dtype: torch.dtype) -> None:
        self._statistics = statistics
        self._channels = [channel_starts(segment) for segment in program.segments]
        if [channels[-1] for channels in self._channels] != [moments.shape[2] for moments in statistics.moments]:
            raise UserError("these batch-norm statistics belong to another network or other dynamic layers")
        self._affine = []
        for segment, channels, moments in zip(program.segments, self._channels, statistics.moments, strict=True):
            parts = [
                affine(norm, *moments[:, :, start:stop].unbind(1))
                for norm, start, stop in zip(segment.norms, channels[:-1], channels[1:], strict=True)
            ]
            sides = [torch.cat(side, dim=1) for side in zip(*parts, strict=True)] if parts else [moments[:, 0]] * 2
            self._affine.append(torch.stack(sides).detach().to(device, dtype))

    def at(self, segment: int, nodes: Sequence[Node]) -> _StoredNorms:
        """See :class:`dynamic.walk.Norms`. Raises UserError where there are no statistics for a prefix."""
        known = self._statistics.prefixes[segment]
        try:
            positions = [known[node.prefix] for node in nodes]
        except KeyError as error:
            options = "; ".join(map(str, error.args[0]))
            raise UserError(f"no batch-norm statistics for options {options}: recalibrate for this configuration") from None
        scales, shifts = self._affine[segment][:, positions]
        return _StoredNorms(self._channels[segment], scales, shifts, [len(node.images) for node in nodes])

    def factors(self, segment: int, prefix: Prefix) -> list[tuple[Tensor, Tensor]]:
        """Of each batch norm of a segment, what it multiplies by and what it adds, (channels,) both.

        Raises:
            UserError: no statistics for this prefix.
        """
        return self.at(segment, [Node(torch.arange(1), prefix)]).factors()

    @property
    def digest(self) -> str:
        """Of the statistics."""
        return self._statistics.digest


class _StoredNorms:
    def __init__(self, channels: list[int], scales: Tensor, shifts: Tensor, rows: list[int]) -> None:
        self._channels, self._scales, self._shifts, self._rows = channels, scales, shifts, rows

    def normalise(self, x: Tensor, index: int) -> Tensor:
        start, stop = self._channels[index : index + 2]
        return apply_affine(x, self._scales[:, start:stop], self._shifts[:, start:stop], self._rows)

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """Of each batch norm, under the first node."""
        bounds = zip(self._channels[:-1], self._channels[1:], strict=True)
        return [(self._scales[0, start:stop], self._shifts[0, start:stop]) for start, stop in bounds]


def channel_starts(segment: Segment) -> list[int]:
    """Where each batch norm's channels begin among all of a segment's, and their number."""
    starts = [0]
    for norm in segment.norms:
        starts.append(starts[-1] + norm.num_features)
    return starts


def affine(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, (prefixes, channels), that subtract ``mean``, divide by the deviation and do what was learned."""
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.to(scale)
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.to(scale)
    return scale, shift


def apply_affine(x: Tensor, scale: Tensor, shift: Tensor, rows: list[int]) -> Tensor:
    """``x * scale + shift`` with (nodes, channels) factors, where node i has ``rows[i]`` rows of ``x``."""
    if len(rows) > 1:
        repeats = torch.tensor(rows, device=x.device)
        scale, shift = (factor.repeat_interleave(repeats, dim=0, output_size=len(x)) for factor in (scale, shift))
    scale, shift = (factor.to(x.dtype)[:, :, None, None] for factor in (scale, shift))
    return torch.addcmul(shift, x, scale)
