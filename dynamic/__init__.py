"""Networks whose strides, dilations and kernel sizes are chosen per image.

>>> import dynamic, torch
>>> network = dynamic.load("resnet50-slim")
>>> space = dynamic.space("stride", network)
>>> images = torch.zeros(2, 3, 96, 96)
>>> network(images, space[0]).shape                  # one configuration for the batch
torch.Size([2, 10])
>>> network(images, [space[0], space[7]]).shape      # or one for each image
torch.Size([2, 10])
>>> network.macs(network.default, 96)
50988032
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dynamic.configuration import Configuration, Space, make_space
from dynamic.errors import UserError

if TYPE_CHECKING:
    from dynamic.fitting import fitting_space
    from dynamic.models import LoadedNetwork, load
    from dynamic.network import DynamicNetwork

__all__ = ["Configuration", "DynamicNetwork", "LoadedNetwork", "Space", "UserError", "fitting_space", "load", "space"]


# What needs PyTorch is imported when it is asked for: a process that runs compiled networks does without.
_WITH_TORCH = {
    "DynamicNetwork": "dynamic.network",
    "LoadedNetwork": "dynamic.models",
    "fitting_space": "dynamic.fitting",
    "load": "dynamic.models",
}


def __getattr__(name: str) -> object:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WITH_TORCH[name]), name)


def space(name: str, network: DynamicNetwork, resolution: int | None = None) -> Space:
    """The configuration space called ``name`` for ``network``; see :func:`dynamic.configuration.make_space`.

    What the network cannot run is left out, and said on stderr: options that a layer cannot vary, configurations that do not
    fit the images. A named space that lacks the default is given it, and that is said too.

    Args:
        name: of a space, or a file.
        network: what is to run it.
        resolution: side of the images in pixels; unless given, that of a loaded network's preprocessing.

    Raises:
        UserError: an unknown name, images that the network does not take, or nothing but the default is left of the space.
    """
    from dynamic.fitting import fitting_space
    from dynamic.models import LoadedNetwork

    if resolution is None and isinstance(network, LoadedNetwork):
        resolution = network.info.resolution
    made, lines = fitting_space(make_space(name, network.default), network, resolution)
    if network.default not in made and not Path(name).suffix:
        made = Space(made.name, [*made, network.default])
        lines.append(f"space {name!r}: the default {network.default.id} was added, the baseline of every comparison")
    for line in lines:
        print(line, file=sys.stderr)
    return made
