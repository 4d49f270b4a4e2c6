"""What one brings, in a few lines: the images, and what of the network can change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dynamic.configuration import Space, varied
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork
from dynamic.sites import candidates
from oracle.data.inspection import inspect_folder
from oracle.data.sources import SPLITS, ImageSource
from selector.learning.training import SMALLEST
from selector.tuning.settings import TuneSettings


def about_images(settings: TuneSettings, source: ImageSource) -> list[str]:
    """How many images of how many classes in which split, and their sizes.

    Raises:
        UserError: too few of them to learn from, or all of one class.
    """
    counts = {split: int((source.splits == split).sum()) for split in SPLITS}
    present = np.unique(source.labels)
    if counts["label"] < SMALLEST:
        raise UserError(
            f"{len(source.keys)} images are too few: {counts['label']} of them are label images, at least {SMALLEST} are "
            "needed to learn anything, and some hundreds to tell whether it helps"
        )
    if len(present) < 2:
        name = source.class_names[present[0]]
        raise UserError(f"all {len(source.keys)} images are of one class ({name}): there is nothing to tell apart")
    by_class = Counter(source.labels.tolist())
    fewest = min(present, key=lambda label: by_class[label])
    lines = [
        f"images: {counts['label']} label images, to choose and learn on, and {counts['test']} test images, to report on; "
        f"{len(present)} classes, of {source.class_names[fewest]} the fewest ({by_class[fewest]})"
    ]
    if len(present) < len(source.class_names):
        lines[0] += f"; the network knows {len(source.class_names)}"
    if settings.data_dir is not None:
        lines += inspect_folder(settings.data_dir, settings.images_of).lines()
    return [*lines, f"the network sees {source.resolution} x {source.resolution} pixels"]


def about_network(network: LoadedNetwork, spaces: Sequence[Space], resolution: int) -> list[str]:
    """Its layers, which of their options are to be tried, and what else could be dynamic."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    lines = [
        f"network: {network.info.name}, {parameters:,} parameters, {network.info.classes} classes, "
        f"{network.macs(network.default, resolution) / 1e6:.1f} MMACs an image"
    ]
    configurations = [configuration for space in spaces for configuration in space]
    for position, layer in enumerate(network.dynamic_layers):
        tried = []
        for attribute in varied(configurations):
            options = sorted({c.options(attribute)[position] for c in configurations})
            if len(options) > 1:
                tried.append(f"{attribute.replace('_', ' ')} {', '.join(f'{option:g}' for option in options)}")
        lines.append(f"  layer {'ABCDEF'[position]} {layer}: {'; '.join(tried) or 'stays as it is'}")
    others = [name for name in candidates(network.original) if name not in network.dynamic_layers]
    if others:
        lines.append(f"  {len(others)} other layers could be dynamic (--dynamic-layers), such as {', '.join(others[:3])}")
    return lines
