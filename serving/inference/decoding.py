"""From uploaded bytes to a picture that is safe to decode, and the picture that the network reads."""

from __future__ import annotations

import io
import warnings
from typing import IO

from PIL import Image

from dynamic import pictures
from dynamic.pictures import FORMATS, LONGEST, SMALLEST
from serving.errors import Rejection
from serving.inference.headers import Header, damaged, read_header

COST = 12
"""Scans of a picture of the most pixels that may be decoded; smaller ones may have more."""


_WHOLE = 2**30
"""Bytes; more than any file has."""


def silence_pillow() -> None:
    """Keep Pillow's warnings off stderr: a stranger's EXIF block makes it write megabytes."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


silence_pillow()


def open_picture(file: bytes | IO[bytes], max_megapixels: float, max_decoded_megapixels: float | None = None) -> Image.Image:
    """Read a picture's header and metadata, decode nothing.

    Args:
        file: of the picture.
        max_megapixels: that it may have as stored.
        max_decoded_megapixels: that the decoder's picture may have; as many unless given.

    Raises:
        Rejection: as :func:`serving.inference.headers.read_header` and :func:`check_header`; or animated, or damaged.
    """
    if isinstance(file, bytes):
        file = io.BytesIO(file)
    header = read_header(file)
    check_header(header, max_megapixels, max_decoded_megapixels or max_megapixels)
    try:
        picture = Image.open(file, formats=FORMATS)
        animated = picture.format != "MPO" and getattr(picture, "is_animated", False)
    except MemoryError:
        raise no_memory() from None
    except Exception:  # damaged headers make Pillow raise almost anything
        raise damaged() from None
    if picture.size != (header.width, header.height):  # what was checked is not what would be decoded
        raise damaged()
    # A phone's JPEG may carry a second picture, a preview or a depth map (MPO); an animation is something else.
    if animated:
        raise Rejection("unsupported_media_type", "the picture is animated: send one frame")
    # Read at once: where the decoder does not get on, Pillow hands it all it has read again with every further piece.
    picture.decodermaxblock = _WHOLE
    return picture


def check_header(header: Header, max_megapixels: float, max_decoded_megapixels: float) -> None:
    """Refuse a picture that is too large, too small, too long, or takes too long to decode.

    Raises:
        Rejection: naming its size and what would be right.
    """
    width, height = header.width, header.height
    size = f"the picture has {width} x {height} pixels"
    if header.pixels > max_megapixels * 1e6:
        raise Rejection("too_large", f"{size}: send at most {max_megapixels:g} megapixels")
    if header.decoded_pixels > max_decoded_megapixels * 1e6:
        kind = "progressive JPEG" if header.format == "JPEG" else header.format
        raise Rejection(
            "too_large", f"{size}: send at most {max_decoded_megapixels:g} megapixels of {kind}, or a plain JPEG"
        )
    if min(width, height) < SMALLEST:
        raise Rejection("bad_image", f"{size}: send at least {SMALLEST} x {SMALLEST}")
    if max(width, height) > LONGEST * min(width, height):
        raise Rejection("bad_image", f"{size}: send one at most {LONGEST} times as long as wide")
    if header.cost > COST * max_decoded_megapixels * 1e6:
        raise Rejection("too_large", f"{size} in {header.scans} scans: save it with fewer scans, as a plain JPEG")


def decode(picture: Image.Image) -> Image.Image:
    """Decode what :func:`open_picture` opened: upright, opaque, RGB or grey, as the oracle's pictures are.

    Raises:
        Rejection: truncated or damaged, numbers that are no colours, or no memory for it.
    """
    try:
        pictures.decode(picture)
    except MemoryError:
        raise no_memory() from None
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, and others
        raise damaged() from None
    try:
        return pictures.upright(picture)
    except MemoryError:
        raise no_memory() from None
    except ValueError as error:
        raise Rejection("bad_image", str(error)) from None


def no_memory() -> Rejection:
    """The refusal of a picture that may be good, by a server that has no room for it now."""
    return Rejection("overloaded", "the server has no memory left for the picture: try again", retry_after=5)
