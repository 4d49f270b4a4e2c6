from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

from dynamic.scenes import FashionScenes
from selector.observation.features import GRID, IMAGE_NAMES, gridded, image_statistics, pooled


def test_statistics_follow_the_scale() -> None:
    scenes = FashionScenes("label", "wide", count=200)
    values = image_statistics(scenes.render(range(200)))
    assert values.shape == (200, len(IMAGE_NAMES))
    assert values.isfinite().all()
    filled = values[:, IMAGE_NAMES.index("filled")]
    assert spearmanr(filled, scenes.sides).statistic > 0.6


def test_statistics_of_odd_images() -> None:
    for images in (
        torch.zeros(2, 3, 96, 96),
        torch.full((1, 3, 96, 96), 3.0),
        torch.randn(1, 3, 8, 8),
        torch.randn(1, 3, 224, 224),
    ):
        assert image_statistics(images).isfinite().all()
    assert image_statistics(torch.zeros(0, 3, 96, 96)).shape == (0, len(IMAGE_NAMES))


def test_one_channel_says_what_three_equal_ones_do() -> None:
    images = torch.randn(3, 1, 64, 64)
    torch.testing.assert_close(
        image_statistics(images), image_statistics(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
    )


def test_spectrum_knows_fine_from_coarse() -> None:
    rows = torch.arange(96.0)
    waves = torch.stack([torch.sin(2 * np.pi * rows / period).expand(3, 96, 96) for period in (48.0, 3.0)])
    centroid = image_statistics(waves)[:, IMAGE_NAMES.index("spectrum_centroid")]
    assert centroid[0] + 3 < centroid[1]


def test_an_image_does_not_see_its_neighbours() -> None:
    images = torch.randn(5, 3, 96, 96)
    torch.testing.assert_close(image_statistics(images)[2:3], image_statistics(images[2:3]), rtol=1e-4, atol=1e-4)


def test_pooling() -> None:
    values = [torch.arange(24.0).reshape(1, 2, 3, 4), torch.ones(1, 1, 2, 2)]
    assert torch.allclose(pooled(values)[0, :2], torch.tensor([5.5, 17.5]))
    assert pooled(values)[0, 4:].tolist() == [1.0, 0.0]
    assert gridded([torch.ones(2, 3, 24, 24), torch.ones(2, 1, 12, 12)]).shape == (2, 4, GRID, GRID)
