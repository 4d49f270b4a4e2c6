"""Statistics of an image's pixels, in numpy: what policies see of an image before anything of the network runs.

A few images at a time, so that what it works on stays in the processor's caches. Products of matrices are kept so small that
no library starts threads for them: those would spin beside the runtime's own.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_SIDE = 96
_OCTAVES = 4
_BANDS = 8
_BINS = 32

IMAGE_NAMES = (
    "mean deviation skewness entropy dark bright".split()
    + [f"edges_{octave}" for octave in range(_OCTAVES)]
    + [f"edges_spread_{octave}" for octave in range(_OCTAVES)]
    + [f"spectrum_{band}" for band in range(_BANDS)]
    + "edge_scale spectrum_centroid extent_x extent_y extent edge_extent edge_x edge_y filled".split()
)

IMAGE_MACS = round(
    _SIDE**2
    * (
        2.5 * math.log2(_SIDE**2)  # the Fourier transform, 5 n log2 n operations
        + 18 * 4 / 3  # two 3 x 3 gradients in each octave
        + 20  # moments, histogram, bands
    )
)
"""Of the ``image`` statistics, counted by hand: torch's counter knows only convolutions and matrix products."""

_PIXELS = _SIDE * _SIDE
_HALF = _SIDE // 2
_ORDER = np.arange(_BANDS, dtype=float)
_TINY = np.float32(1e-6)
_COUNT = np.float32(_PIXELS)
_TOGETHER = 8


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Statistics of the pixels at 96 x 96, :data:`IMAGE_NAMES`.

    Args:
        images: (N, C, H, W) float32, normalised.

    Returns:
        (N, len(IMAGE_NAMES)) float32.

    >>> round(float(dict(zip(IMAGE_NAMES, image_statistics(np.eye(96, dtype=np.float32)[None, None])[0]))["filled"]), 2)
    0.01
    """
    found = np.empty((len(images), len(IMAGE_NAMES)), dtype=np.float32)
    for start in range(0, len(images), _TOGETHER):
        _fill(_grey(images[start : start + _TOGETHER]), found[start : start + _TOGETHER])
    return found


def _grey(images: np.ndarray) -> np.ndarray:
    """(N, 96 * 96): the mean of the channels, averaged over areas where the images have another size."""
    grey = images[:, 0]
    if images.shape[1] > 1:
        grey = grey + images[:, 1]
        for channel in range(2, images.shape[1]):
            grey += images[:, channel]
        grey /= np.float32(images.shape[1])
    height, width = grey.shape[1:]
    if (height, width) != (_SIDE, _SIDE):
        grey = _areas(height) @ grey @ _areas(width).T
    return grey.reshape(-1, _PIXELS)


@functools.lru_cache(maxsize=16)
def _areas(size: int) -> np.ndarray:
    """(96, size): averages over 96 areas as even as whole pixels allow, overlapping where they must."""
    starts = np.arange(_SIDE) * size // _SIDE
    ends = -(-(np.arange(_SIDE) + 1) * size // _SIDE)
    place = np.arange(size)
    inside = (place >= starts[:, None]) & (place < ends[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def _fill(grey: np.ndarray, out: np.ndarray) -> None:
    """Write the statistics of (N, 96 * 96) grey values into the (N, statistics) rows of ``out``."""
    low, high = np.minimum.reduce(grey, axis=1)[:, None], np.maximum.reduce(grey, axis=1)[:, None]
    scaled = grey - low
    scaled /= np.maximum(high - low, _TINY)
    mean = _sums(scaled) / _COUNT
    centred = scaled - mean[:, None]
    squares = centred * centred
    deviation = np.maximum(np.sqrt(_sums(squares) / _COUNT), _TINY)
    out[:, 0], out[:, 1] = mean, deviation
    out[:, 2] = np.vecdot(squares, centred) / _COUNT / deviation**3
    out[:, 3:6] = _histogram(scaled)
    edges, spreads = out[:, 6 : 6 + _OCTAVES], out[:, 6 + _OCTAVES : 6 + 2 * _OCTAVES]
    finest = _edges(scaled, edges, spreads)
    bands = _spectrum(centred)
    np.log10(np.maximum(bands, 1e-9), out=out[:, 14 : 14 + _BANDS], casting="same_kind")
    out[:, 22] = edges @ _ORDER[:_OCTAVES] / np.maximum(edges.sum(axis=1), _TINY)
    out[:, 23] = bands @ _ORDER / np.maximum(bands.sum(axis=1), 1e-9)
    out[:, 30] = [np.count_nonzero(row) for row in scaled > np.float32(0.1)]
    out[:, 30] /= _COUNT
    scaled *= scaled
    vx, vy, _, _ = _extent(scaled.reshape(-1, _SIDE, _SIDE), _SIDE)
    out[:, 24], out[:, 25], out[:, 26] = np.sqrt(vx), np.sqrt(vy), np.sqrt(vx + vy)
    vx, vy, mx, my = _extent(finest, _SIDE - 2)
    out[:, 27], out[:, 28], out[:, 29] = np.sqrt(vx + vy), mx, my


@functools.cache
def _ones(count: int) -> np.ndarray:
    return np.ones(count, dtype=np.float32)


def _sums(values: np.ndarray) -> np.ndarray:
    """(N,) of (N, M)."""
    return np.asarray(np.vecdot(values, _ones(values.shape[1])))


def _histogram(scaled: np.ndarray) -> np.ndarray:
    """(N, 3): entropy of 32 bins of the values from 0 to 1, and the shares of dark and bright ones.

    Pixels are counted in pairs, by both their bins, which halves what is counted one by one.
    """
    count, half = len(scaled), _PIXELS // 2
    bins = scaled * np.float32(_BINS - 1)
    np.rint(bins, out=bins)
    pairs, second = bins[:, :half], bins[:, half:]
    second *= np.float32(_BINS)
    pairs += second
    if count > 1:
        pairs += np.arange(0, count * _BINS**2, _BINS**2, dtype=np.float32)[:, None]
    counted = np.bincount(pairs.astype(np.intp).ravel(), minlength=count * _BINS**2).reshape(count, _BINS, _BINS)
    shares = (counted.sum(axis=1) + counted.sum(axis=2)) / _PIXELS
    entropy = -(shares * np.log2(np.maximum(shares, 1e-9))).sum(axis=1)
    return np.stack([entropy, shares[:, :4].sum(axis=1), shares[:, -8:].sum(axis=1)], axis=1)


def _edges(level: np.ndarray, means: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """Write mean and deviation of the gradient in each octave; returns the finest gradients squared, (N, 94, 96), halved.

    With sums s of 2 x 2 pixels, p and q their differences along the two diagonals, Sobel's gradients are p + q and p - q, so
    that their squares sum up to 2 (p * p + q * q); and each second s is the next octave. An image is one line of pixels, so
    that every step passes over whole memory; where a row meets the next, in the last two columns, gradients are set to zero.
    """
    count, side, finest = len(level), _SIDE, level
    for octave in range(_OCTAVES):
        sums = level[:, :-side] + level[:, side:]
        sums[:, :-1] += sums[:, 1:]
        length = (side - 2) * side
        squares = np.zeros((count, length), dtype=np.float32)
        falling = np.subtract(sums[:, side + 1 : -1], sums[:, : length - 2], out=squares[:, :-2])
        rising = sums[:, 1 : length - 1] - sums[:, side:-2]
        falling *= falling
        rising *= rising
        falling += rising
        maps = squares.reshape(count, side - 2, side)
        maps[:, :, -2:] = 0
        finest = maps if octave == 0 else finest
        size = np.float32((side - 2) ** 2)
        roots = np.sqrt(squares)
        mean = _sums(roots) * np.float32(math.sqrt(2) / 8) / size  # the kernels are eighths
        means[:, octave] = mean
        spreads[:, octave] = np.sqrt(np.maximum(_sums(squares) / np.float32(32) / size - mean * mean, 0))
        if octave + 1 < _OCTAVES:
            rows = sums.reshape(count, side - 1, side)[:, ::2, ::2]
            level = np.multiply(rows, np.float32(0.25)).reshape(count, -1)
            side //= 2
    return finest


def _extent(weights: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(N,) variances and means of the position from 0 to 1, weighted by (N, height, 96), 0 from width on: x, y, x, y."""
    rows = (weights @ _powers(width)).astype(float)  # sums of a row's weights, times x from the middle, times its square
    total = np.maximum(rows[:, :, 0].sum(axis=1), 1e-9)
    across = np.add.reduce(rows, axis=1) / total[:, None]
    down = rows[:, :, 0] @ _powers(weights.shape[1]).astype(float)[: weights.shape[1]] / total[:, None]
    (vx, mx), (vy, my) = (
        (np.maximum(sums[:, 2] - sums[:, 1] ** 2, 0), sums[:, 1] + 0.5 * sums[:, 0]) for sums in (across, down)
    )
    return vx, vy, mx, my


@functools.cache
def _powers(width: int) -> np.ndarray:
    """(96, 3): powers 0, 1 and 2 of the places from the middle of a side of ``width``, which is one long; zeros beyond."""
    made = np.zeros((_SIDE, 3), dtype=np.float32)
    made[:width] = np.linspace(-0.5, 0.5, width)[:, None] ** np.arange(3)
    return made


@functools.cache
def _waves() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cosines and sines for folded rows and for columns, the order of pairs of waves by band, and where each band starts.

    The powers of a real image at two frequencies that differ in the sign along y alone, which lie in one band, sum up to
    twice the squares of its products with cosines and sines: no complex numbers are needed, and sides are folded in half.
    """
    angle = 2 * np.pi / _SIDE
    even, odd = np.arange(_HALF + 1), np.arange(1, _HALF)
    cosines, sines = np.cos(angle * np.outer(even, even)), np.sin(angle * np.outer(odd, odd))
    twice = np.where((even > 0) & (even < _HALF), math.sqrt(2), 1.0)[:, None]
    frequency = np.hypot(even[:, None], even[None]).ravel() / _SIDE
    band = np.floor(_BANDS + 2 * np.log2(np.maximum(frequency, 1e-6) / 0.5)).clip(0, _BANDS - 1)
    order = np.argsort(band, kind="stable")
    starts = np.searchsorted(band[order], np.arange(_BANDS))
    products = (cosines * twice, sines * math.sqrt(2), cosines, sines)
    made = [np.ascontiguousarray(product, dtype=np.float32) for product in products]
    return made[0], made[1], made[2], made[3], order, starts


def _spectrum(centred: np.ndarray) -> np.ndarray:
    """(N, 8) power in bands of spatial frequency, an octave apart by halves, of (N, 96 * 96) values of mean zero."""
    row_cosines, row_sines, cosines, sines, order, starts = _waves()
    edge = _HALF + 1  # before it cosines, which are one more, behind it sines
    values = centred.reshape(-1, _SIDE, _SIDE)
    folded, half = np.empty_like(values), np.empty_like(values)
    folded[:, 0], folded[:, _HALF] = values[:, 0], values[:, _HALF]
    first, mirrored = values[:, 1:_HALF], values[:, :_HALF:-1]
    np.add(first, mirrored, out=folded[:, 1:_HALF])
    np.subtract(first, mirrored, out=folded[:, edge:])
    np.matmul(row_cosines, folded[:, :edge], out=half[:, :edge])
    np.matmul(row_sines, folded[:, edge:], out=half[:, edge:])
    folded[:, :, 0], folded[:, :, _HALF] = half[:, :, 0], half[:, :, _HALF]
    first, mirrored = half[:, :, 1:_HALF], half[:, :, :_HALF:-1]
    np.add(first, mirrored, out=folded[:, :, 1:_HALF])
    np.subtract(first, mirrored, out=folded[:, :, edge:])
    made = half
    np.matmul(folded[:, :, :edge], cosines, out=made[:, :, :edge])
    np.matmul(folded[:, :, edge:], sines, out=made[:, :, edge:])
    made *= made
    made[:, :, 1:_HALF] += made[:, :, edge:]  # of one frequency, by columns and by rows
    powers = made[:, :edge, :edge]
    powers[:, 1:_HALF] += made[:, edge:, :edge]
    return np.add.reduceat(powers.reshape(-1, edge * edge).take(order, axis=1), starts, axis=1).astype(float)
