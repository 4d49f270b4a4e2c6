"""What a selector may see of an image, and what each look costs.

* ``image``: statistics of the pixels (spectrum, edges by scale, entropy, extent of what stands out): :mod:`.statistics`.
* ``stem``: channel means and deviations of what dynamic layer A reads; every configuration computes it anyway.
  Where layer A reads the picture, it is the picture's; :mod:`selector.policies.empty_stem`.
* ``prefix``: ``stem``, and the same of what layer B reads under the default option for A; free for images whose
  configuration has that option, else the price of the first stage.
* ``map``: what layer B reads under the default option for A, averaged over a 6 x 6 grid; costs as ``prefix``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 6
"""Side of ``map``."""

VERSION = 1
"""Of what the groups hold: raise it with every change, so that observations made before are not taken for new ones."""


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


LOOKS: Mapping[str, Callable[[Sequence[Tensor]], Tensor]] = {"pooled": pooled, "gridded": gridded}
"""How policies look at what a dynamic layer reads, by kind; compiled networks make the same."""
