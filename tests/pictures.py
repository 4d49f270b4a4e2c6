"""Everyday pictures that are not plain RGB, each as the bytes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image

ORIENTATIONS = range(1, 9)
BROKEN_EXIF = b"Exif\x00\x00II*\x00\xff\xff\xff\x7f"


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    """RGB, different in every corner."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8))


def with_alpha() -> Image.Image:
    """RGBA: opaque at the left, clear at the right with colours hidden below, half of each between."""
    image = gradient()
    image.putalpha(Image.fromarray(np.tile(np.repeat([255, 128, 0], 20).astype(np.uint8), (40, 1))))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    """What a camera writes: an EXIF block that says how to turn the picture."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def png(pixels: np.ndarray, bits: int, clear: tuple[int, ...]) -> bytes:
    """A PNG of numbers that fill ``bits`` each, grey (H, W) or RGB (H, W, 3), with one clear colour."""
    height, width = pixels.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in pixels]
    else:
        each = ((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8) for row in pixels)
        rows = [np.packbits(row).tobytes() for row in each]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, 2 if pixels.ndim == 3 else 0, 0, 0, 0),
        b"tRNS": struct.pack(f">{len(clear)}H", *clear),
        b"IDAT": zlib.compress(b"".join(b"\0" + row for row in rows)),
        b"IEND": b"",
    }
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@cache
def corpus() -> dict[str, bytes]:
    """By name; JPEG, PNG and WebP."""
    return dict(_corpus())


def _corpus() -> Iterator[tuple[str, bytes]]:
    rgb, rgba = gradient(), with_alpha()
    for orientation in ORIENTATIONS:
        for kind in ("JPEG", "PNG", "WEBP"):
            yield f"{kind} turned {orientation}", saved(rgb, kind, exif=turned(orientation))
    yield "grey JPEG turned 6", saved(rgb.convert("L"), "JPEG", exif=turned(6))
    yield "clear PNG turned 8", saved(rgba, "PNG", exif=turned(8))
    yield "palette PNG turned 5", saved(rgb.convert("P"), "PNG", exif=turned(5))
    yield "orientation 9", saved(rgb, "JPEG", exif=turned(9))
    yield "broken EXIF", saved(rgb, "JPEG", exif=BROKEN_EXIF)
    yield "RGBA PNG", saved(rgba, "PNG")
    yield "RGBA WebP", saved(rgba, "WEBP", lossless=True, exact=True)
    yield "LA PNG", saved(rgba.convert("LA"), "PNG")
    yield "RGB PNG with a clear colour", saved(rgb, "PNG", transparency=(0, 0, 0))
    yield "grey PNG with a clear grey", saved(rgb.convert("L"), "PNG", transparency=20)
    yield "palette PNG", saved(rgb.convert("P"), "PNG")
    yield "palette PNG with a clear colour", saved(rgb.convert("P"), "PNG", transparency=3)
    yield "palette PNG with an alpha for each colour", saved(rgba.quantize(32), "PNG")
    yield "small palette PNG", saved(rgb.quantize(4), "PNG", bits=2)
    yield "one-bit PNG", saved(rgb.convert("1"), "PNG")
    yield "one-bit PNG with a clear bit", saved(rgb.convert("1"), "PNG", transparency=0)
    sixteen = Image.fromarray(np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60))
    yield "PNG of 16 bits", saved(sixteen, "PNG")
    yield "PNG of 16 bits with a clear grey", saved(sixteen, "PNG", transparency=65535)
    deep = np.asarray(rgb).astype(np.uint16) * 257
    yield "RGB PNG of 16 bits with a clear colour", png(deep, 16, tuple(int(value) for value in deep[20, 30]))
    yield "RGB PNG of 16 bits with a clear near-black", png(deep, 16, (0, 1, 2))
    for bits in (2, 4):
        yield f"grey PNG of {bits} bits with a clear grey", png(np.asarray(rgb.convert("L")) >> 8 - bits, bits, (2,))
    yield "grey JPEG", saved(rgb.convert("L"), "JPEG")
    adobes = saved(rgb.convert("CMYK"), "JPEG")
    assert adobes[2:4] == b"\xff\xee"
    yield "Adobe's CMYK JPEG", adobes
    yield "CMYK JPEG", adobes[:2] + adobes[4 + int.from_bytes(adobes[4:6], "big") :]
    yield "progressive JPEG", saved(rgb, "JPEG", progressive=True)
    yield "MPO", saved(rgb, "MPO", save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)])
    yield "JPEG of 9 x 100", saved(rgb.resize((9, 100)), "JPEG")
