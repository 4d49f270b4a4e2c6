"""What a picture's bytes say before any decoder sees them: size, scans, and how much stands around the pixels.

Pillow reads all metadata of a file as it opens it: a PNG of millions of empty chunks, text that grows a thousandfold, or an
EXIF block of 65,535 entries cost it seconds. Here they are counted first, in one pass of bounded length.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

from dynamic import pictures
from serving.errors import Rejection

SCANS = 100
"""Of a JPEG, at most; each makes the decoder go over the whole picture, and cameras write about ten."""

CHUNKS = 10_000
"""Of a PNG or WebP, and segments of a JPEG, at most; ordinary ones have dozens, the largest PNGs four thousand."""

TEXTS = 1000
"""Text chunks of a PNG, at most."""

TEXT_BYTES = 4 * 2**20
"""Of a PNG's text once it is unpacked, all together; of its colour profiles likewise."""

TABLE_BYTES = 16 * 1024
"""Of a JPEG's quantisation tables, all together; four of 129 bytes are the most that one needs."""

JUNK_BYTES = 64 * 1024
"""Between a JPEG's segments before its first scan, all together; Pillow reads them one by one."""

PHOTOSHOP_BYTES = 2 * 2**20
"""Of what Photoshop writes beside a JPEG's pixels, all together."""

EXIF_ENTRIES = 1000
"""Of all blocks, at most; cameras write about fifteen into the first directory of one."""

EXIF_BYTES = 2**20
"""Of an EXIF block, and of all values that its entries name, at most."""

EXPECTED = "send a JPEG, PNG or WebP picture"

_UNREAD = (
    (re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "HEIC, as iPhones store photos"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "AVIF"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"II\*\0|MM\0\*"), "TIFF, or a camera's raw file"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"%PDF-"), "PDF"),
)
"""How files of formats that are not read begin, and what they are called."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Of a JPEG's segment: neither a byte of a scan's data nor a restart within it."""

_WINDOW = 2**20
"""Bytes that are searched for a marker at a time: no other thread, the event loop's neither, runs meanwhile."""

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value by its type in EXIF."""

_WITHOUT = "save it without metadata"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture's bytes claim.

    Attributes:
        format: of the file.
        width: pixels.
        height: pixels.
        scans: how often a decoder goes over the picture.
        progressive: whether it must hold the whole picture while it does.
    """

    format: Literal["JPEG", "PNG", "WEBP"]
    width: int
    height: int
    scans: int = 1
    progressive: bool = False

    @property
    def pixels(self) -> int:
        """As stored."""
        return self.width * self.height

    @property
    def decoded_pixels(self) -> int:
        """Of the picture that the decoder makes: a large JPEG is decoded smaller (:func:`dynamic.pictures.reduction`)."""
        if self.format != "JPEG" or self.progressive:
            return self.pixels
        return self.pixels // pictures.reduction(self.width, self.height) ** 2

    @property
    def cost(self) -> int:
        """Pixels times scans: what decoding takes."""
        return self.pixels * self.scans


def read_header(file: IO[bytes]) -> Header:
    """Read what a picture's bytes claim, and count what stands around its pixels.

    Args:
        file: open; it is read from its start, and then stands there again.

    Raises:
        Rejection: no picture of a known format, cut within its header, or with more metadata than any everyday picture has.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30)).save(file, "PNG")
    >>> read_header(file)
    Header(format='PNG', width=40, height=30, scans=1, progressive=False)
    """
    file.seek(0)
    data = file.read()
    file.seek(0)
    if not data:
        raise Rejection("bad_image", f"the file is empty: {EXPECTED}")
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    found = next((name for beginning, name in _UNREAD if beginning.match(data)), None)
    if found is not None:
        raise Rejection("unsupported_media_type", f"the file is {found}, which is not read: {EXPECTED}, converted from it")
    raise Rejection("unsupported_media_type", f"the file is not a picture of a known format: {EXPECTED}")


def damaged() -> Rejection:
    """The refusal of a file that is no whole picture."""
    return Rejection("bad_image", f"the picture is damaged or truncated: {EXPECTED}")


def _jpeg(data: bytes) -> Header:
    """What stands behind the end of a JPEG's first picture does not count: phones put films there."""
    at, scans, frame, exif, entries, tables, photoshop, junk = 2, 0, None, b"", 0, 0, 0, 0
    for _ in range(CHUNKS):
        found = _marker(data, at)
        if not scans:
            junk += (len(data) if found is None else found.start()) - at
            if junk > JUNK_BYTES:
                raise damaged()
        if found is None or (marker := data[found.start() + 1]) == 0xD9:
            break
        at = found.end()
        if marker in (0x01, 0xD8):  # these have no length
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == 0xDA:
            scans += 1
        elif marker == 0xDB:
            tables += length
            if tables > TABLE_BYTES:
                raise Rejection("bad_image", f"the JPEG's quantisation tables have over {TABLE_BYTES >> 10} KiB: {EXPECTED}")
        elif marker == 0xED:
            photoshop += length
            if photoshop > PHOTOSHOP_BYTES:
                raise _too_much(f"more than {PHOTOSHOP_BYTES >> 20} MiB of Photoshop's data")
        elif marker in _FRAMES and frame is None and len(data) >= at + 7:
            frame = (marker, *struct.unpack_from(">HH", data, at + 3))
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", at + 2):
            exif += data[at + 8 : at + length]
            if len(exif) > EXIF_BYTES:
                raise _too_much(f"more than {EXIF_BYTES >> 20} MiB of EXIF")
        elif marker == 0xE2 and data.startswith(b"MPF\0", at + 2):
            entries = _check_exif(data[at + 6 : at + length], entries)
        at += length
    else:
        raise Rejection("bad_image", f"the JPEG has more than {CHUNKS:,} segments: {_WITHOUT}")
    if frame is None:
        raise damaged()
    _check_exif(exif, entries)
    if scans > SCANS:
        raise Rejection("bad_image", f"the JPEG has {scans} scans: send one of at most {SCANS}")
    kind, height, width = frame
    return Header(format="JPEG", width=width, height=height, scans=max(1, scans), progressive=kind in _PROGRESSIVE)


def _marker(data: bytes, at: int) -> re.Match[bytes] | None:
    """The next one of a JPEG's markers."""
    while at < len(data):
        if found := _MARKER.search(data, at, at + _WINDOW):
            return found
        at += _WINDOW - 1
    return None


def _png(data: bytes) -> Header:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise damaged()
    texts, text_bytes, profile_bytes, entries = 0, 0, 0, 0
    for name, body in _chunks(data, 8, ">I4s", 4):
        if name in (b"tEXt", b"zTXt", b"iTXt"):
            texts += 1
            text_bytes += _text_bytes(name, body, TEXT_BYTES - text_bytes)
            if texts > TEXTS or text_bytes > TEXT_BYTES:
                raise _too_much(f"more than {TEXTS:,} texts, or {TEXT_BYTES >> 20} MiB of them")
        elif name == b"iCCP":
            profile_bytes += _unpacked(body.partition(b"\0")[2][1:], TEXT_BYTES - profile_bytes)
            if profile_bytes > TEXT_BYTES:
                raise Rejection("bad_image", f"the picture's colour profile has over {TEXT_BYTES >> 20} MiB: {_WITHOUT}")
        elif name == b"eXIf":
            entries = _check_exif(body, entries)
    width, height = struct.unpack_from(">II", data, 16)
    return Header(format="PNG", width=width, height=height)


def _webp(data: bytes) -> Header:
    entries = 0
    for name, body in _chunks(data, 12, "<4sI", 0):
        if name == b"EXIF":
            entries = _check_exif(body, entries)
    start, kind = data[:30], data[12:16]
    if len(start) < 30:
        raise damaged()
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return Header(format="WEBP", width=width, height=height)


def _chunks(data: bytes, at: int, head: str, behind: int) -> Iterator[tuple[bytes, bytes]]:
    """Names and bodies of a PNG's or WebP's chunks, empty ones of those that hold pixels."""
    for count in range(CHUNKS + 1):
        if at + 8 > len(data):
            return
        if count == CHUNKS:
            raise Rejection("bad_image", f"the picture has more than {CHUNKS:,} chunks: {_WITHOUT}")
        first, second = struct.unpack_from(head, data, at)
        name, length = (first, second) if isinstance(first, bytes) else (second, first)
        yield name, b"" if name in (b"IDAT", b"fdAT", b"VP8 ", b"VP8L", b"ALPH", b"ANMF") else data[at + 8 : at + 8 + length]
        at += 8 + length + behind + (0 if behind else length % 2)


def _text_bytes(name: bytes, body: bytes, most: int) -> int:
    """Of a text chunk once it is unpacked, or one more than ``most``."""
    keyword, _, rest = body.partition(b"\0")
    if name == b"zTXt":
        return len(keyword) + _unpacked(rest[1:], most)
    if name == b"iTXt" and rest[:1] != b"\0":
        return len(keyword) + _unpacked(rest[2:].split(b"\0", 2)[-1], most)
    return len(body)


def _unpacked(packed: bytes, most: int) -> int:
    """Bytes of what zlib packed, or one more than ``most``."""
    try:
        return len(zlib.decompressobj().decompress(packed, max(0, most) + 1))
    except zlib.error:
        return len(packed)


def _check_exif(block: bytes, before: int) -> int:
    """Count the entries of an EXIF block's first directory, and the bytes that they name.

    Args:
        block: of EXIF.
        before: entries of the picture's other blocks.

    Returns:
        Entries with this block's.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return before + 1
    (at,) = struct.unpack_from(f"{order}I", block, 4)
    if at + 2 > len(block):
        return before + 1
    (entries,) = struct.unpack_from(f"{order}H", block, at)
    entries = min(entries, (len(block) - at - 2) // 12)
    if before + entries > EXIF_ENTRIES:
        raise _too_much(f"{before + entries:,} EXIF entries")
    named = 0
    for entry in range(entries):
        kind, count = struct.unpack_from(f"{order}HI", block, at + 2 + 12 * entry + 2)
        named += min(_UNITS.get(kind, 0) * count, len(block))
    if named > EXIF_BYTES:
        raise _too_much(f"EXIF entries that name more than {EXIF_BYTES >> 20} MiB")
    return before + entries + 1


def _too_much(what: str) -> Rejection:
    return Rejection("bad_image", f"the picture has {what}: {_WITHOUT}")
