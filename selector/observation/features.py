"""What a selector may see of an image, and what each look costs.

* ``image``: statistics of the pixels (spectrum, edges by scale, entropy, extent of what stands out).
* ``stem``: channel means and deviations of what dynamic layer A reads; every configuration computes it anyway.
* ``prefix``: ``stem``, and the same of what layer B reads under the default option for A; free for images whose
  configuration has that option, else the price of the first stage.
* ``map``: what layer B reads under the default option for A, averaged over a 6 x 6 grid; costs as ``prefix``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 6
"""Side of ``map``."""

VERSION = 1
"""Of what the groups hold: raise it with every change, so that observations made before are not taken for new ones."""

_SIDE = 96
_OCTAVES = 4
_BANDS = 8
_BINS = 32

IMAGE_NAMES = (
    "mean deviation skewness entropy dark bright".split()
    + [f"edges_{octave}" for octave in range(_OCTAVES)]
    + [f"edges_spread_{octave}" for octave in range(_OCTAVES)]
    + [f"spectrum_{band}" for band in range(_BANDS)]
    + "edge_scale spectrum_centroid extent_x extent_y extent edge_extent edge_x edge_y filled".split()
)

IMAGE_MACS = round(
    _SIDE**2
    * (
        2.5 * math.log2(_SIDE**2)  # the Fourier transform, 5 n log2 n operations
        + 18 * 4 / 3  # two 3 x 3 gradients in each octave
        + 20  # moments, histogram, bands
    )
)
"""Of the ``image`` statistics, counted by hand: torch's counter knows only convolutions and matrix products."""


def image_statistics(images: Tensor) -> Tensor:
    """Statistics of the pixels at 96 x 96, :data:`IMAGE_NAMES`.

    Args:
        images: (N, C, H, W), normalised.

    Returns:
        (N, len(IMAGE_NAMES)) float32 on the CPU.
    """
    if len(images) == 0:
        return torch.empty(0, len(IMAGE_NAMES))
    grey = images.float().mean(dim=1)
    if grey.shape[-2:] != (_SIDE, _SIDE):
        grey = F.interpolate(grey[:, None], size=(_SIDE, _SIDE), mode="area")[:, 0]
    low, high = grey.amin(dim=(1, 2), keepdim=True), grey.amax(dim=(1, 2), keepdim=True)
    scaled = (grey - low) / (high - low).clamp(min=1e-6)
    mean, deviation = scaled.mean(dim=(1, 2)), scaled.std(dim=(1, 2), correction=0).clamp(min=1e-6)
    skewness = (((scaled - mean[:, None, None]) / deviation[:, None, None]) ** 3).mean(dim=(1, 2))
    bins = (scaled * (_BINS - 1)).round().long().flatten(1)
    shares = torch.zeros(len(grey), _BINS).scatter_add_(1, bins.cpu(), torch.ones(bins.shape)) / bins.shape[1]
    entropy = -(shares * shares.clamp(min=1e-9).log2()).sum(dim=1)
    plain = [mean, deviation, skewness, entropy, shares[:, :4].sum(dim=1), shares[:, -8:].sum(dim=1)]
    edges, spreads, finest = _edges(scaled)
    spectrum, centroid = _spectrum(scaled)
    weights = torch.arange(_OCTAVES, dtype=torch.float32, device=edges.device)
    edge_scale = (edges * weights).sum(dim=1) / edges.sum(dim=1).clamp(min=1e-6)
    extents = [edge_scale, centroid, *_extent(scaled**2, both=True), *_extent(finest**2, both=False)]
    filled = (scaled > 0.1).float().mean(dim=(1, 2))
    columns = [torch.stack([part.cpu() for part in plain], dim=1), edges, spreads, spectrum]
    columns += [part[:, None] for part in [*extents, filled]]
    return torch.cat([column.cpu() for column in columns], dim=1)


def _edges(grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of the gradient in each octave, (N, octaves) both; and the finest gradients, (N, H, W)."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=grey.device) / 8
    kernels = torch.stack([kernel, kernel.T])[:, None]
    level, means, spreads, finest = grey[:, None], [], [], grey
    for octave in range(_OCTAVES):
        gradient = F.conv2d(level, kernels).square().sum(dim=1).sqrt()
        means.append(gradient.mean(dim=(1, 2)))
        spreads.append(gradient.std(dim=(1, 2), correction=0))
        finest = gradient if octave == 0 else finest
        level = F.avg_pool2d(level, 2)
    return torch.stack(means, dim=1), torch.stack(spreads, dim=1), finest


def _spectrum(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Log power in bands of spatial frequency, an octave apart by halves, (N, bands); and its mean band, (N,)."""
    power = torch.fft.rfft2(grey - grey.mean(dim=(1, 2), keepdim=True)).abs().square()
    frequency = torch.fft.fftfreq(_SIDE)[:, None].square() + torch.fft.rfftfreq(_SIDE)[None].square()
    band = (_BANDS + 2 * torch.log2(frequency.sqrt().clamp(min=1e-6) / 0.5)).floor().clamp(0, _BANDS - 1).long()
    sums = torch.zeros(len(grey), _BANDS, device=grey.device)
    sums.index_add_(1, band.flatten().to(grey.device), power.flatten(1))
    shares = sums / sums.sum(dim=1, keepdim=True).clamp(min=1e-9)
    centroid = (shares * torch.arange(_BANDS, device=grey.device)).sum(dim=1)
    return sums.clamp(min=1e-9).log10(), centroid


def _extent(weights: Tensor, both: bool) -> list[Tensor]:
    """Deviations of the position, weighted: (x, y, both together) or (both together, mean x, mean y); (N,) each."""
    weights = weights / weights.sum(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    place = [torch.linspace(0, 1, size, device=weights.device) for size in weights.shape[1:]]
    ys, xs = weights.sum(dim=2), weights.sum(dim=1)
    my, mx = (ys * place[0]).sum(dim=1), (xs * place[1]).sum(dim=1)
    vy = (ys * (place[0] - my[:, None]) ** 2).sum(dim=1).clamp(min=0)
    vx = (xs * (place[1] - mx[:, None]) ** 2).sum(dim=1).clamp(min=0)
    together = (vx + vy).sqrt()
    return [vx.sqrt(), vy.sqrt(), together] if both else [together, mx, my]


def pooled(values: Sequence[Tensor]) -> Tensor:
    """Channel means and deviations over space of (N, C, H, W) values, side by side: (N, 2 * channels) float32, CPU."""
    parts = []
    for value in values:
        wide = value.flatten(2) if value.ndim > 2 else value[:, :, None]
        parts += [wide.mean(dim=2), wide.std(dim=2, correction=0)]
    return torch.cat([part.float().cpu() for part in parts], dim=1)


def gridded(values: Sequence[Tensor]) -> Tensor:
    """(N, channels, 6, 6) means over a grid of (N, C, H, W) values, side by side; float32, CPU. Vectors fill the grid."""
    maps = [value.float() if value.ndim == 4 else value.float().flatten(1)[:, :, None, None] for value in values]
    return torch.cat([F.adaptive_avg_pool2d(value, GRID).cpu() for value in maps], dim=1)
