"""What becomes of a picture's pixels before any network sees them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from dynamic.pictures import upright
from tests.pictures import ORIENTATIONS, corpus, gradient, saved, turned, with_alpha


def opened(name: str) -> Image.Image:
    return Image.open(io.BytesIO(corpus()[name]))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", corpus())
def test_once_is_enough(name: str) -> None:
    once = upright(opened(name))
    assert once.mode in ("RGB", "L")
    again = upright(once)
    assert again.mode == once.mode
    assert np.array_equal(pixels(again), pixels(once))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_every_orientation_is_made_upright(orientation: int, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.open(io.BytesIO(saved(gradient(), kind, exif=turned(orientation), **options)))
    stored = gradient()
    stored.info["exif"] = turned(orientation)
    assert np.array_equal(pixels(upright(image)), pixels(ImageOps.exif_transpose(stored)))
    assert upright(image).size == ((40, 60) if orientation > 4 else (60, 40))


def test_hidden_colours_stay_hidden() -> None:
    for name in ("RGBA PNG", "RGBA WebP"):
        seen = pixels(upright(opened(name)))
        assert (seen[:, 40:] == 255).all()
        assert np.array_equal(seen[:, :20], pixels(gradient())[:, :20])
        half = (pixels(gradient())[:, 20:40] * 128 + 255 * 127) / 255
        assert np.abs(seen[:, 20:40] - half).max() <= 1
    grey = pixels(upright(opened("LA PNG")))
    assert (grey[:, 40:] == 255).all()
    assert np.array_equal(grey[:, :20], pixels(gradient().convert("L"))[:, :20])
    assert np.array_equal(pixels(upright(with_alpha().convert("RGBa")))[:, 40:], np.full((40, 20, 3), 255))


def test_one_clear_colour_is_white() -> None:
    palette = gradient().convert("P")
    wanted = np.where(np.asarray(palette)[:, :, None] == 3, 255, pixels(palette))
    assert np.array_equal(pixels(upright(opened("palette PNG with a clear colour"))), wanted)
    grey = np.asarray(gradient().convert("L")).astype(int)
    seen = pixels(upright(opened("grey PNG with a clear grey")))[:, :, 0]
    assert np.array_equal(seen, np.where(grey == 20, 255, grey))
    assert (pixels(upright(opened("one-bit PNG with a clear bit"))) == 255).all()
    assert (pixels(upright(opened("RGB PNG with a clear colour")))[0, 0] == 255).all()


def test_of_16_bits_the_high_ones_count() -> None:
    values = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    seen = upright(opened("PNG of 16 bits"))
    assert seen.mode == "L"
    assert np.array_equal(np.asarray(seen), values >> 8)
    last = upright(opened("PNG of 16 bits with a clear grey")).getpixel((59, 39))
    assert last == (255, 255, 255)


def test_a_clear_colour_has_the_bits_of_the_file() -> None:
    rgb = pixels(gradient())
    seen = pixels(upright(opened("RGB PNG of 16 bits with a clear colour")))
    clear = (rgb == rgb[20, 30]).all(axis=2)
    assert clear.any()
    assert np.array_equal(seen, np.where(clear[:, :, None], 255, rgb))
    seen = pixels(upright(opened("RGB PNG of 16 bits with a clear near-black")))
    assert np.array_equal(seen, np.where((rgb == 0).all(axis=2)[:, :, None], 255, rgb))
    for bits in (2, 4):
        seen = pixels(upright(opened(f"grey PNG of {bits} bits with a clear grey")))[:, :, 0]
        values = np.asarray(gradient().convert("L")).astype(int) >> 8 - bits
        assert np.array_equal(seen, np.where(values == 2, 255, values * 255 // (2**bits - 1)))


def test_numbers_without_a_white_are_refused() -> None:
    for kind in (np.int32, np.float32):
        with pytest.raises(ValueError, match="does not say what white is"):
            upright(Image.fromarray(np.ones((9, 9), kind)))


def test_inks_are_not_taken_for_light() -> None:
    for name in ("CMYK JPEG", "Adobe's CMYK JPEG"):
        assert np.abs(pixels(upright(opened(name))) - pixels(gradient())).mean() < 10


def test_a_plain_picture_is_left_alone() -> None:
    image = gradient()
    assert upright(image) is image
