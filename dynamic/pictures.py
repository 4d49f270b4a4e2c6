"""One road for every picture, whatever file it comes from: upright, opaque, 8 bits of grey or RGB.

The oracle, training and the service all take it, so a picture that is served looks to the network as it did offline:

1. Transparent pixels are put on white. Their hidden colours are whatever an editor left there; white is what pages and
   viewers show behind a picture, and what cut-out photographs were made for.
2. Of 16 bits the high 8 count, for grey as for colour: Pillow would clip grey ones to white. So too of the one colour
   that a PNG of 16-bit colour calls clear.
3. Palettes, CMYK and other colour spaces become RGB by Pillow's plain formulas. Colour profiles are not applied.
4. The picture is turned as its EXIF orientation says. EXIF blocks that cannot be read turn nothing.
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

VERSION = "1"
"""Of what becomes of a picture: raise it with every change. Runs remember it."""

BACKGROUND = "white"
"""Behind transparent pixels."""

FORMATS = ("JPEG", "PNG", "WEBP")
"""That the service takes, by Pillow's name of them."""

SMALLEST = 8
"""Pixels a side that it takes."""

LONGEST = 20
"""Times as long as wide, at most: networks want the short side at a size of their own, and the long one grows with it."""

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
    bits = tiles[0].args if image.format == "PNG" and tiles else ""
    image.load()
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and (bits == "RGB;16B" or max(clear) > 255):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    elif isinstance(clear, int) and bits in _WHITE:
        image.info["transparency"] = clear * 255 // _WHITE[bits]


_WHITE = {"L;2": 3, "L;4": 15}
"""Of grey PNGs with few bits, by Pillow's name of them."""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # cameras write strange EXIF blocks around good pictures, and Pillow raises almost anything
        return 1


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
