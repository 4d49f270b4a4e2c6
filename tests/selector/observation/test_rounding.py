from __future__ import annotations

import numpy as np
import pytest

from selector.observation.rounding import FEW, rounded, rounded_in_numpy


@pytest.mark.parametrize("shape", [(3, 5), (1, FEW), (1, FEW + 1), (4, 100, 6, 6), (0, 7)])
def test_is_numpy_rounding_to_the_last_bit(shape: tuple[int, ...]) -> None:
    drawn = np.random.default_rng(0).integers(0, 2**32, shape, dtype=np.uint64)
    values = drawn.astype(np.uint32).view(np.float32)  # any bits: infinite ones, NaN and the smallest among them
    flat = values.reshape(-1)
    edges = np.array([np.nan, np.inf, -np.inf, 65504, 65519, 65520, -1e9, -0.0, 6e-8, 3e-8, -1e-9], np.float32)
    flat[: len(edges)] = edges[: flat.size]
    made, expected = rounded(values), rounded_in_numpy(values)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(np.signbit(made[made == 0]), np.signbit(expected[expected == 0]))


def test_rounds_at_all() -> None:
    assert rounded(np.full((1, FEW + 1), 1 + 2**-12, np.float32)).max() == 1
