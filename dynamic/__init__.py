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

from dynamic.configuration import Configuration, Space, make_space
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork, load
from dynamic.network import DynamicNetwork

__all__ = ["Configuration", "DynamicNetwork", "LoadedNetwork", "Space", "UserError", "load", "space"]


def space(name: str, network: DynamicNetwork) -> Space:
    """The configuration space called ``name`` for ``network``; see :func:`dynamic.configuration.make_space`.

    Raises:
        UserError: an unknown name, or a space that varies what a layer of this network cannot.
    """
    made = make_space(name, network.default)
    for configuration in made:
        network.check(configuration)
    return made
