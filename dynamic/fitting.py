"""Spaces cut down to what a network can run: options that cannot change, configurations that do not fit the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from dynamic.macs import Resolution
from dynamic.network import DynamicNetwork


def fitting_space(space: Space, network: DynamicNetwork, resolution: Resolution | None) -> tuple[Space, list[str]]:
    """The configurations of ``space`` that ``network`` runs, under the same name, and one line for each kind that it cannot.

    No image is run: shapes are followed step by step, each prefix of options once. Where a layer cannot vary an attribute
    and the space does not have the option that the layer was built with, the layer keeps that option.

    Args:
        space: of as many layers as the network has.
        network: any dynamic network.
        resolution: of the images, in pixels (height, width if two); None to check only what holds at every resolution.

    Raises:
        UserError: the default configuration does not fit the images, or it alone is left.

    >>> import dynamic
    >>> network = dynamic.load("resnet18", weights=None, dynamic_layers=["layer1.0.conv1", "layer4.0.conv1"])
    >>> space, lines = fitting_space(dynamic.configuration.make_space("stride", network.default), network, 64)
    >>> len(space), lines[0][:77]
    (4, "space 'stride': 12 of 16 configurations left out: each changes the stride of ")
    """
    if resolution is not None and (failure := network.costs.failure(network.default, resolution)) is not None:
        raise UserError(f"the network does not run on images of {_pixels(resolution)} pixels: {failure}")
    kept: list[Configuration] = []
    reasons: Counter[str] = Counter()
    unfit = ""
    for configuration in _with_what_cannot_change(space, network):
        reason = network.objection(configuration)
        if reason is None and resolution is not None:
            failure = network.costs.failure(configuration, resolution)
            if failure is not None:  # the message differs with the shape: the first stands for all
                reason = unfit = unfit or f"does not fit {_pixels(resolution)} pixels ({configuration.id}: {failure})"
        if reason is None:
            kept.append(configuration)
        else:
            reasons[reason] += 1
    left_out = f"of {len(space)} configurations left out: each"
    lines = [f"space {space.name!r}: {count} {left_out} {why}" for why, count in reasons.items()]
    if lines and set(kept) <= {network.default}:
        raise UserError(f"nothing but the default is left: {'; '.join(lines)}")
    return Space(space.name, kept), lines


def _with_what_cannot_change(space: Iterable[Configuration], network: DynamicNetwork) -> list[Configuration]:
    """The configurations, at the default's option where an attribute is fixed and no configuration has that option."""
    configurations = list(space)
    for layer, name in network.fixed:
        built = network.default.options(name)[layer]
        if all(configuration.options(name)[layer] != built for configuration in configurations):
            options = [(c, c.options(name)) for c in configurations]
            configurations = [c.changed({name: (*taken[:layer], built, *taken[layer + 1 :])}) for c, taken in options]
    return list(dict.fromkeys(configurations))


def _pixels(resolution: Resolution) -> str:
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return f"{height} x {width}"
