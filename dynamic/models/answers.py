"""What a network takes and answers: one or three channels, a row of logits."""

from __future__ import annotations

from torch import nn

from dynamic.errors import UserError
from dynamic.network import DynamicNetwork


def require_channels(name: str, taken: int, made: int) -> None:
    """Raise UserError where a network takes other images than its preprocessing makes."""
    if taken not in (1, 3):
        raise UserError(f"{name} takes {taken} channels; 1 or 3 are supported")
    if taken != made:
        numbers = "one number" if taken == 1 else "three numbers"
        raise UserError(
            f"{name} takes {taken} channels, its preprocessing makes {made}: mean and std must have {numbers} each"
        )


def count_classes(network: DynamicNetwork, resolution: int) -> int:
    """How many a network tells apart. Raises UserError where it is no classifier."""
    try:
        shape = network.costs.answer(resolution)
    except UserError:  # a module for images of another size
        heads = [module for module in network.original.modules() if isinstance(module, nn.Linear)]
        if not heads:
            raise
        return heads[-1].out_features
    if len(shape) != 2:
        name, sides = type(network.original).__name__, " x ".join(map(str, shape[1:]))
        raise UserError(
            f"{name} makes {sides or 'one number'} of an image, not a row of logits: only classifiers are supported"
        )
    return shape[1]
