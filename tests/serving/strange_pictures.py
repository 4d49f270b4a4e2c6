"""Good pictures with so much around their pixels that reading it is an attack."""

from __future__ import annotations

import struct
import zlib

from tests.serving.bad_inputs import picture


def png_with(*chunks: tuple[bytes, bytes], at_end: bool = False, size: tuple[int, int] = (40, 40)) -> bytes:
    """A PNG with further chunks behind its header, or before its end."""
    whole = picture("PNG", size)
    place = len(whole) - 12 if at_end else 33
    made = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return whole[:place] + made + whole[place:]


def png_of_empty_chunks(count: int) -> bytes:
    whole = picture("PNG")
    return whole[:33] + (struct.pack(">I", 0) + b"tESt" + struct.pack(">I", zlib.crc32(b"tESt"))) * count + whole[33:]


def text_bomb(size: int = 2**20, count: int = 64, kind: bytes = b"iTXt") -> bytes:
    """A PNG whose texts unpack to ``size`` bytes each; 1 MiB is what Pillow takes."""
    packed = zlib.compress(bytes(size), 9)
    head = b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    return png_with(*[(kind, head + packed)] * count)


def exif_of(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """An EXIF block, little-endian, of entries: tag, type, count, four bytes."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def jpeg_with_exif(block: bytes, size: tuple[int, int] = (60, 30)) -> bytes:
    """A JPEG with an EXIF block of any size, in as many segments as it takes."""
    whole, rest, made = picture("JPEG", size), block.removeprefix(b"Exif\0\0"), b""
    for at in range(0, len(rest), 65_000):
        part = b"Exif\0\0" + rest[at : at + 65_000]
        made += b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
    return whole[:2] + made + whole[2:]


def jpeg_with(marker: bytes, body: bytes, count: int) -> bytes:
    """A JPEG with further segments behind its start."""
    whole = picture("JPEG", (60, 30))
    return whole[:2] + (b"\xff" + marker + struct.pack(">H", len(body) + 2) + body) * count + whole[2:]


def webp_with(name: bytes, body: bytes, count: int) -> bytes:
    """A WebP with further chunks behind its pixels."""
    return picture("WEBP", (60, 30)) + (name + struct.pack("<I", len(body)) + body) * count


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * scans + whole[-2:]


ORIENTATION = (0x0112, 3, 1, b"\6\0\0\0")
"""An entry that turns a picture by 90 degrees clockwise."""


def strange() -> dict[str, bytes]:
    """By name; each must be refused with a 4xx, at once."""
    return {
        "PNG of 2.6 million empty chunks": png_of_empty_chunks(2_600_000),
        "PNG of 64 iTXt bombs": text_bomb(),
        "PNG of 64 zTXt bombs": text_bomb(kind=b"zTXt"),
        "PNG of texts behind its pixels": png_with(*[(b"tEXt", b"k\0v")] * 2000, at_end=True),
        "PNG of a profile of 100 MiB": png_with((b"iCCP", b"p\0\0" + zlib.compress(bytes(100 * 2**20), 9))),
        "PNG of 5000 EXIF entries": png_with((b"eXIf", exif_of([(n, 3, 1, bytes(4)) for n in range(5000)])[6:])),
        "JPEG of 65535 EXIF entries": jpeg_with_exif(exif_of([(n, 3, 1, bytes(4)) for n in range(65_535)])),
        "JPEG of EXIF entries that all name all": jpeg_with_exif(
            exif_of([(n, 1, 60_000, struct.pack("<I", 8)) for n in range(900)]) + bytes(60_000)
        ),
        "JPEG of 25 megapixels and 99 scans": jpeg_of_scans(5000, 80),
        "PNG of 7000 profiles of 4 MiB": png_with(*[(b"iCCP", b"p\0\0" + zlib.compress(bytes(4 * 2**20), 9))] * 7000),
        "PNG of 2500 EXIF blocks": png_with(*[(b"eXIf", _block()[6:])] * 2500),
        "WebP of 2500 EXIF blocks": webp_with(b"EXIF", _block()[6:], 2500),
        "JPEG of 2500 blocks that name further pictures": jpeg_with(b"\xe2", b"MPF\0" + _block()[6:], 2500),
        "JPEG of 30 MiB of tables": jpeg_with(b"\xdb", (b"\0" + bytes([1] * 64)) * 1000, 480),
        "JPEG of 27 MiB of Photoshop": jpeg_with(b"\xed", b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000, 480),
    }


def _block() -> bytes:
    """An EXIF block of as many entries as a picture may have."""
    return exif_of([(1, 3, 1, bytes(4))] * 1000)


def costly() -> dict[str, bytes]:
    """By name; small pictures in files of 31 MiB whose bytes are as slow to look through as any. They are no crime."""
    whole = picture("JPEG", (60, 30))
    made = {f"JPEG of {name}": whole[:-2] + data * (31 * 2**20 // len(data)) for name, data in _FILLING.items()}
    return made | {"JPEG of nothing before its picture": whole[:20] + bytes(31 * 2**20) + whole[20:]}


_FILLING = {"stuffed bytes": b"\xff\0", "fill bytes": b"\xff", "restarts": b"\xff\xd0", "nothing": b"\0"}
