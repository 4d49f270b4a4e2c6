"""One road for every picture, whatever file it comes from: upright, opaque, 8 bits of grey or RGB.

The oracle, training and the service all take it, so a picture that is served looks to the network as it did offline:

1. Transparent pixels are put on white. Their hidden colours are whatever an editor left there; white is what pages and
   viewers show behind a picture, and what cut-out photographs were made for.
2. Of 16 bits the high 8 count, for grey as for colour: Pillow would clip grey ones to white. So too of the one colour
   that a PNG of 16-bit colour calls clear.
3. Palettes, CMYK and other colour spaces become RGB by Pillow's plain formulas. Colour profiles are not applied.
4. The picture is turned as its EXIF orientation says, whatever stands beside it. Blocks that cannot be read turn nothing.
5. A JPEG of more pixels than :data:`LARGEST` is decoded at a half, a quarter or an eighth of its sides, whichever brings it
   under that: the decoder averages blocks of pixels, for next to nothing, and what a network reads is far smaller anyhow.
"""

from __future__ import annotations

import re
import struct

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

VERSION = "2"
"""Of what becomes of a picture: raise it with every change. Runs remember it."""

BACKGROUND = "white"
"""Behind transparent pixels."""

FORMATS = ("JPEG", "PNG", "WEBP")
"""That the service takes, by Pillow's name of them."""

SMALLEST = 8
"""Pixels a side that it takes."""

LONGEST = 20
"""Times as long as wide, at most: networks want the short side at a size of their own, and the long one grows with it."""

LARGEST = 25_000_000
"""Pixels above which a JPEG is decoded smaller."""

PngImagePlugin.MAX_TEXT_CHUNK = 4 * 2**20
"""Of a PNG's colour profile or text, unpacked; Pillow's own megabyte calls pictures with a printer's profile damaged."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


def upright(image: Image.Image) -> Image.Image:
    """A picture of any mode as an upright, opaque one of mode ``RGB`` or ``L``; doing it twice changes nothing.

    Args:
        image: of any format and mode. It is decoded, and stays what it is.

    Raises:
        ValueError: its numbers have no white of their own (32 bits a channel).
        OSError, SyntaxError: as Pillow raises them where a file is damaged.

    >>> clear = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    >>> upright(clear).getpixel((0, 0))
    (255, 255, 255)
    >>> exif = Image.Exif()
    >>> exif[ExifTags.Base.Orientation] = 6
    >>> lying = Image.new("L", (4, 2))
    >>> lying.info["exif"] = exif.tobytes()
    >>> upright(lying).size, upright(upright(lying)).size
    ((2, 4), (2, 4))
    """
    decode(image)  # first, since a PNG may say at its end how it is turned
    turn = _TURNS.get(_orientation(image))
    flat = _flat(image)
    if turn is not None:
        flat = flat.transpose(turn)
        flat.info = {}  # the orientation has been seen to
    return flat


def refusal(image: Image.Image) -> str | None:
    """Why the service would refuse a picture that was opened, from its header alone; None where that is no reason.

    >>> image = Image.new("RGB", (7, 40))
    >>> image.format = "PNG"
    >>> refusal(image)
    'a side under 8 pixels'
    """
    if image.format not in (*FORMATS, "MPO"):  # a phone's JPEG with a second picture
        return "no JPEG, PNG or WebP"
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return "animated"
    if min(image.size) < SMALLEST:
        return f"a side under {SMALLEST} pixels"
    return f"over {LONGEST} times as long as wide" if max(image.size) > LONGEST * min(image.size) else None


def decode(image: Image.Image) -> None:
    """Decode a picture in place, its clear colour in the pixels' bits too: Pillow leaves that in the file's.

    Raises:
        OSError, SyntaxError: as Pillow raises them where a file is damaged.
    """
    tiles = getattr(image, "tile", [])
    if tiles and image.format in ("JPEG", "MPO") and not image.info.get("progressive"):
        scale = reduction(*image.size)
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
    bits = tiles[0].args if image.format == "PNG" and tiles else ""
    image.load()
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and (bits == "RGB;16B" or max(clear) > 255):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    elif isinstance(clear, int) and bits in _WHITE:
        image.info["transparency"] = clear * 255 // _WHITE[bits]


_WHITE = {"L;2": 3, "L;4": 15}
"""Of grey PNGs with few bits, by Pillow's name of them."""


def reduction(width: int, height: int) -> int:
    """How many times shorter the sides of a JPEG of this size are decoded: 1, 2, 4 or 8.

    >>> reduction(5000, 5000), reduction(8064, 6048), reduction(12_000, 9000)
    (1, 2, 4)
    """
    return next((scale for scale in (1, 2, 4) if width * height <= LARGEST * scale**2), 8)


def _orientation(image: Image.Image) -> int:
    """As EXIF or, without it, XMP says. Pillow gives up an EXIF block at the first entry that it does not understand."""
    exif = image.info.get("exif")
    if exif is None and "Raw profile type exif" in image.info:
        try:
            exif = bytes.fromhex("".join(str(image.info["Raw profile type exif"]).split("\n")[3:]))
        except ValueError:
            return 1
    found = _exif_orientation(exif) if isinstance(exif, bytes) else None
    if found is not None:
        return found
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or ""
    said = re.search(r'tiff:Orientation(?:="|>)([0-9])', xmp.decode("latin-1") if isinstance(xmp, bytes) else str(xmp))
    return int(said[1]) if said else 1


def _exif_orientation(block: bytes) -> int | None:
    """Of an EXIF block: the first that its first directory names, within its first thousand entries."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return None
    (at,) = struct.unpack_from(f"{order}I", block, 4)
    if at + 2 > len(block):
        return None
    (entries,) = struct.unpack_from(f"{order}H", block, at)
    for place in range(at + 2, at + 2 + 12 * min(entries, 1000), 12):
        if place + 12 > len(block):
            return None
        tag, kind, count, short = struct.unpack_from(f"{order}HHIH", block, place)
        if tag == ExifTags.Base.Orientation and count == 1:
            return {1: block[place + 8], 3: short, 4: struct.unpack_from(f"{order}I", block, place + 8)[0]}.get(kind, 1)
    return None


def _flat(image: Image.Image) -> Image.Image:
    """On the background, in ``RGB`` or ``L``."""
    if image.mode.startswith("I;16"):
        return _of_sixteen_bits(image)
    if image.mode in ("I", "F"):
        raise ValueError("a picture of 32 bits a channel does not say what white is: save it with 8 or 16 bits")
    if image.mode in ("RGBa", "La"):
        image = image.convert(f"{image.mode[:-1]}A")
    if image.has_transparency_data:
        return _composited(image.convert("RGBA"))
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _of_sixteen_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    grey = Image.fromarray((pixels >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    return _composited(Image.merge("LA", (grey, Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))))


def _composited(image: Image.Image) -> Image.Image:
    opaque = Image.new("RGB", image.size, BACKGROUND)
    opaque.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return opaque
