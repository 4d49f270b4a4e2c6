"""From uploaded bytes to a picture that is safe to decode, and the tensor that the network reads."""

from __future__ import annotations

import io
import re
import warnings
from typing import IO

from PIL import Image, UnidentifiedImageError

from dynamic import pictures
from dynamic.pictures import FORMATS, LONGEST, SMALLEST
from serving.errors import Rejection

SCANS = 100
"""Of a JPEG, at most; each makes the decoder go over the whole picture, and cameras write about ten."""

_SEGMENTS = 10_000
"""Of a JPEG, at most; ordinary ones have dozens."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Of a JPEG's segment: neither a byte of a scan's data nor a restart within it."""

_EXPECTED = "send a JPEG, PNG or WebP picture"


def open_picture(file: bytes | IO[bytes], max_megapixels: float) -> Image.Image:
    """Read a picture's header, decode nothing.

    Raises:
        Rejection: not a picture of the known formats, too many pixels or too few, or animated.
    """
    if isinstance(file, bytes):
        file = io.BytesIO(file)
    start = file.read(32)
    file.seek(0)
    if not start:
        raise Rejection("bad_image", f"the file is empty: {_EXPECTED}")
    if webp_pixels(file) > max_megapixels * 1e6:  # opening it allocates the canvas
        raise Rejection("too_large", f"the picture has more than {max_megapixels:g} megapixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # we refuse large pictures ourselves, sooner
            picture = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise Rejection("too_large", f"the picture has more than {max_megapixels:g} megapixels") from None
    except UnidentifiedImageError:
        known = start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (
            start[:4] == b"RIFF" and start[8:12] == b"WEBP"
        )
        if known:
            raise Rejection("bad_image", f"the picture is damaged or truncated: {_EXPECTED}") from None
        raise Rejection("unsupported_media_type", f"the file is not a picture of a known format: {_EXPECTED}") from None
    except Exception:  # damaged headers make Pillow raise almost anything
        raise Rejection("bad_image", f"the picture is damaged or truncated: {_EXPECTED}") from None
    width, height = picture.size
    if width * height > max_megapixels * 1e6:
        raise Rejection("too_large", f"the picture has {width} x {height} pixels, more than {max_megapixels:g} megapixels")
    if min(width, height) < SMALLEST:
        raise Rejection("bad_image", f"the picture has {width} x {height} pixels: send at least {SMALLEST} x {SMALLEST}")
    if max(width, height) > LONGEST * min(width, height):
        raise Rejection(
            "bad_image", f"the picture has {width} x {height} pixels: send one at most {LONGEST} times as long as wide"
        )
    if picture.format in ("JPEG", "MPO"):
        place = file.tell()
        file.seek(0)
        scans = _scans(file.read())
        file.seek(place)
        if scans > SCANS:
            raise Rejection("bad_image", f"the JPEG has {scans} scans: send one of at most {SCANS}")
    # A phone's JPEG may carry a second picture, a preview or a depth map (MPO); an animation is something else.
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise Rejection("unsupported_media_type", "the picture is animated: send one frame")
    return picture


def webp_pixels(file: IO[bytes]) -> int:
    """Width times height as a WebP's header says; 0 for what is none. The file stays where it was."""
    place = file.tell()
    file.seek(0)
    start = file.read(30)
    file.seek(place)
    if len(start) < 30 or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0
    kind = start[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width * height


def _scans(jpeg: bytes) -> int:
    """Scans of the first picture in a JPEG file; what stands behind its end does not count."""
    at, scans = 2, 0
    for _ in range(_SEGMENTS):
        found = _MARKER.search(jpeg, at)
        if found is None or (marker := jpeg[found.start() + 1]) == 0xD9:
            return scans
        scans += marker == 0xDA
        at = found.end()
        if marker not in (0x01, 0xD8):  # these have no length
            at += int.from_bytes(jpeg[at : at + 2], "big")
    raise Rejection("bad_image", f"the JPEG has more than {_SEGMENTS:,} segments: {_EXPECTED}")


def decode(picture: Image.Image) -> Image.Image:
    """Decode what :func:`open_picture` opened: upright, opaque, RGB or grey, as the oracle's pictures are.

    Raises:
        Rejection: truncated or damaged, or numbers that are no colours.
    """
    try:
        pictures.decode(picture)
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, and others
        raise Rejection("bad_image", f"the picture is damaged or truncated: {_EXPECTED}") from None
    try:
        return pictures.upright(picture)
    except ValueError as error:
        raise Rejection("bad_image", str(error)) from None
