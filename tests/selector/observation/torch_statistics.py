"""Statistics of pixels with torch's Fourier transform and convolutions: the slow reference of those in numpy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from selector.observation.statistics import IMAGE_NAMES

_SIDE = 96
_OCTAVES = 4
_BANDS = 8
_BINS = 32


def torch_statistics(images: Tensor) -> Tensor:
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
