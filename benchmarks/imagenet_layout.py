"""Files laid out, named and sized as ILSVRC 2012's, for benchmarks where the real ones are not at hand.

``val/nXXXXXXXX/ILSVRC2012_val_00000001.JPEG`` and so on for all images, ``train/nXXXXXXXX/nXXXXXXXX_1.JPEG`` once a class.
Sides and bytes follow the real ones' (400 to 460 pixels by 350 to 390 and 110 to 140 kB on average, half of them 500 pixels
long), and a few are as odd as real ones: grey, CMYK, a PNG called JPEG. Some cannot be read at all: empty, cut off, no
picture. The pictures are noise with a natural spectrum. A few hundred are encoded; every file is one of them with a comment
of its own, so that no two are copies.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dynamic.files import ASSETS

ENCODINGS = 240
"""Pictures that are encoded."""

BYTES_A_PIXEL = 0.68
"""110 kB of the pictures as they are drawn here."""

_COMMENT = 8192
"""Most bytes of a file's comment: they spread the sizes of files as they are spread in the real set."""

_SIDES = {(500, 375): 0.38, (500, 333): 0.11, (375, 500): 0.11, (333, 500): 0.04, (500, 400): 0.02}
"""Width and height of the commonest, with shares; the others are drawn."""

_LARGE = 0.015
"""Share of pictures of 1,000 and more pixels."""

ODD = {"grey": 0.018, "cmyk": 0.0005, "png": 0.0002, "cut off": 0.0002, "empty": 0.0001, "no picture": 0.0001}
"""Shares of odd files; at least one of each is made."""

UNREADABLE = ("cut off", "empty", "no picture")


def make_layout(out: Path, images: int, seed: int = 0) -> dict[str, list[str]]:
    """Write ``images`` validation files and their folders.

    Args:
        out: receives ``val`` and ``train``; must not hold them yet.
        images: in ``val``; at least as many as there are kinds in :data:`ODD`.
        seed: of everything.

    Returns:
        For each kind of :data:`ODD`, the files of that kind below ``val``.
    """
    stream = np.random.default_rng(seed)
    wnids = (ASSETS / "imagenet_wnids.txt").read_text().split()
    kinds = np.full(images, "common", dtype=object)
    counts = {kind: max(1, round(share * images)) for kind, share in ODD.items()}
    kinds[stream.permutation(images)[: sum(counts.values())]] = np.repeat(list(counts), list(counts.values()))
    texture = _texture(3072, stream)
    common = [_encoded(_picture(texture, stream), stream) for _ in range(min(ENCODINGS, images))]
    others = {
        "grey": [_encoded(_picture(texture, stream).convert("L"), stream) for _ in range(4)],
        "cmyk": [_encoded(_picture(texture, stream).convert("CMYK"), stream)],
        "png": [_png(_picture(texture, stream))],
    }
    found: dict[str, list[str]] = {kind: [] for kind in ODD}
    classes = stream.permutation(np.arange(images) % len(wnids))
    for number, (kind, position) in enumerate(zip(kinds, classes, strict=True)):
        wnid = wnids[position]
        name = f"{wnid}/ILSVRC2012_val_{number + 1:08d}.JPEG"
        comment = stream.bytes(int(stream.integers(16, _COMMENT))) + number.to_bytes(4, "big")
        encodings: Sequence[bytes] = others.get(kind, common)
        content = _commented(encodings[number % len(encodings)], comment)
        if kind == "cut off":
            content = content[: len(content) * 6 // 10]
        elif kind in UNREADABLE:
            content = b"" if kind == "empty" else comment
        path = out / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if kind in found:
            found[kind].append(name)
        train = out / "train" / wnid / f"{wnid}_1.JPEG"
        if not train.exists():
            train.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, train)
    return found


def _texture(side: int, stream: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8: noise whose amplitude falls with frequency, as that of photographs does."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    layers = [np.fft.irfft2(np.fft.rfft2(stream.standard_normal((side, side))) / frequency, (side, side)) for _ in range(2)]
    grey, tint = ((layer - layer.mean()) / layer.std() for layer in layers)
    colours = np.stack([grey + 0.3 * tint, grey, grey - 0.3 * tint], axis=-1)
    return np.clip(128 + 55 * colours + stream.normal(0, 6, colours.shape), 0, 255).astype(np.uint8)


def _picture(texture: np.ndarray, stream: np.random.Generator) -> Image.Image:
    chance = stream.random()
    width, height = 0, 0
    for sides, share in _SIDES.items():
        chance -= share
        if chance < 0:
            width, height = sides
            break
    else:
        longest = stream.uniform(1000, 2600) if chance < _LARGE else np.clip(np.exp(stream.normal(5.7, 0.45)), 70, 900)
        ratio = stream.uniform(0.65, 1)
        width, height = int(longest), int(longest * ratio)
        if stream.random() < 0.35:
            width, height = height, width
    top, left = (int(stream.integers(texture.shape[axis] - side)) for axis, side in enumerate((height, width)))
    return Image.fromarray(texture[top : top + height, left : left + width])


def _encoded(picture: Image.Image, stream: np.random.Generator) -> bytes:
    """As a JPEG of about as many bytes as a photograph of this size has in ILSVRC."""
    wanted = BYTES_A_PIXEL * picture.width * picture.height * np.exp(stream.normal(-0.06, 0.35))
    low, high = 40, 97
    while high - low > 2:
        middle = (low + high) // 2
        low, high = (middle, high) if len(_jpeg(picture, middle)) < wanted else (low, middle)
    return _jpeg(picture, low)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _commented(encoded: bytes, comment: bytes) -> bytes:
    """The same picture, with a comment: a segment behind a JPEG's first marker, bytes behind a PNG's end."""
    if not encoded.startswith(b"\xff\xd8"):
        return encoded + comment
    return encoded[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + encoded[2:]
