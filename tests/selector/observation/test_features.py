from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dynamic.scenes import FashionScenes
from selector.observation.features import GRID, gridded, pooled
from selector.observation.rounding import rounded
from selector.observation.statistics import IMAGE_NAMES, image_statistics
from tests.selector.observation.torch_statistics import torch_statistics


def test_statistics_follow_the_scale() -> None:
    scenes = FashionScenes("label", "wide", count=200)
    images = scenes.render(range(200))
    values = image_statistics(images.numpy())
    assert values.shape == (200, len(IMAGE_NAMES))
    assert np.isfinite(values).all()
    filled = values[:, IMAGE_NAMES.index("filled")]
    assert spearmanr(filled, scenes.sides).statistic > 0.6
    # What policies learned from was made by torch, with its Fourier transform: in half precision hardly anything differs.
    assert (rounded(values) != rounded(torch_statistics(images).numpy())).sum() <= 3


@pytest.mark.parametrize("shape", [(3, 3, 96, 96), (2, 1, 96, 96), (1, 3, 8, 8), (2, 3, 224, 224), (1, 3, 100, 70)])
def test_statistics_are_those_of_a_fourier_transform(shape: tuple[int, ...]) -> None:
    images = torch.randn(*shape)
    np.testing.assert_allclose(image_statistics(images.numpy()), torch_statistics(images).numpy(), rtol=2e-3, atol=2e-4)


def test_statistics_of_odd_images() -> None:
    for images in (np.zeros((2, 3, 96, 96), np.float32), np.full((1, 3, 96, 96), 3, np.float32)):
        assert np.isfinite(image_statistics(images)).all()
    assert image_statistics(np.zeros((0, 3, 96, 96), np.float32)).shape == (0, len(IMAGE_NAMES))


def test_one_channel_says_what_three_equal_ones_do() -> None:
    images = np.random.default_rng(0).normal(size=(3, 1, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(image_statistics(images), image_statistics(images.repeat(3, axis=1)), rtol=1e-4, atol=1e-4)


def test_spectrum_knows_fine_from_coarse() -> None:
    rows = np.arange(96, dtype=np.float32)
    waves = np.stack([np.broadcast_to(np.sin(2 * np.pi * rows / period), (3, 96, 96)) for period in (48.0, 3.0)])
    centroid = image_statistics(waves.astype(np.float32))[:, IMAGE_NAMES.index("spectrum_centroid")]
    assert centroid[0] + 3 < centroid[1]


def test_an_image_does_not_see_its_neighbours() -> None:
    images = np.random.default_rng(0).normal(size=(7, 3, 96, 96)).astype(np.float32)
    np.testing.assert_allclose(image_statistics(images)[5:6], image_statistics(images[5:6]), rtol=1e-5, atol=1e-6)


def test_pooling() -> None:
    values = [torch.arange(24.0).reshape(1, 2, 3, 4), torch.ones(1, 1, 2, 2)]
    assert torch.allclose(pooled(values)[0, :2], torch.tensor([5.5, 17.5]))
    assert pooled(values)[0, 4:].tolist() == [1.0, 0.0]
    assert gridded([torch.ones(2, 3, 24, 24), torch.ones(2, 1, 12, 12)]).shape == (2, 4, GRID, GRID)
