"""Requests that must be refused: 250 and more, each with its name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Bad:
    """A request; ``arguments`` are those of httpx."""

    name: str
    path: str = "/v1/classify"
    arguments: dict[str, Any] = field(default_factory=dict)


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 40), mode: str = "RGB", **options: Any) -> bytes:
    stream = np.random.default_rng(sum(size))
    buffer = io.BytesIO()
    pixels = Image.fromarray(stream.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    pixels.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG that claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


@cache
def bad_pictures() -> tuple[tuple[str, bytes], ...]:
    """By name; made once, since the bombs take a second."""
    return tuple(_bad_pictures())


def _bad_pictures() -> Iterator[tuple[str, bytes]]:
    stream = np.random.default_rng(0)
    yield "empty", b""
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = picture(kind)
        for part in np.linspace(0.01, 0.9, 25):
            yield f"{kind} cut at {part:.0%}", whole[: max(1, int(part * len(whole)))]
        for side in range(1, 8):
            yield f"{kind} of {side} pixels", picture(kind, (side, side))
        yield f"{kind} of 1 x 500", picture(kind, (1, 500))
    for width, height in (
        (50_000, 50_000),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (6000, 5000),
        (2**31 - 1, 2**31 - 1),
        (100_000, 9),
    ):
        yield f"PNG that claims {width} x {height}", png_of(width, height)
    yield "PNG bomb", png_of(12_000, 12_000, data=bytes(12_000 * 12_001))
    yield "PNG of 8 x 12000", png_of(8, 12_000, data=bytes(9 * 12_000))
    yield "PNG of 400000 x 8", png_of(400_000, 8, data=bytes(8 * 400_001))
    progressive = picture("JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    yield "JPEG of 5000 scans", progressive[:-2] + progressive[last:-2] * 5000 + progressive[-2:]
    yield "PNG without size", png_of(0, 0)
    yield "PNG without data", png_of(40, 40)
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    for kind in ("PNG", "WEBP", "GIF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        yield f"animated {kind}", buffer.getvalue()
    for kind in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PDF", "EPS"):
        yield kind, picture(kind)
    yield "text", b"http://127.0.0.1:1/cat.jpg"
    yield "page", b"<html><body><img src=x></body></html>"
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"/>'
    yield "zip", b"PK\x03\x04" + bytes(100)
    for number in range(25):
        yield f"noise {number}", stream.bytes(int(stream.integers(1, 3000)))
    for magic in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x10\x00\x00WEBPVP8 "):
        for number in range(10):
            yield f"noise behind {magic[:4]!r} {number}", magic + stream.bytes(int(stream.integers(1, 3000)))


def bad_requests() -> list[Bad]:
    """All of them: bad pictures, wrong form values, missing and foreign fields, other bodies, wrong feedback."""
    good = ("a.png", picture(), "image/png")
    found = [Bad(name, arguments={"files": {"image": ("a", data)}}) for name, data in bad_pictures()]
    found += [
        Bad(f"{name}, in a batch", "/v1/classify_batch", {"files": {"images": ("a", data)}})
        for name, data in bad_pictures()[::7]
    ]
    wrong: dict[str, list[str]] = {
        "policy": ["", "nope", "../../etc/passwd", "forced", "x" * 5000, "[]", "123", "\u0000", "ö"],
        "max_gmacs": ["0", "-1", "nan", "inf", "1e-9", "abc", "", "[1]", "1,5", "x" * 5000],
        "top_k": ["0", "-3", "1.5", "1001", "abc", "", "true ish", "9" * 400],
        "configuration": ["", "x", "s1-1-1-1", "s9-9-9-9_d1-1-1-1_k3-3-3-3", "s2-1-2-2-2_d1-1-1-1-1_k7-3-3-3-3 ", "x" * 300],
        "keep": ["maybe", "2", "[]", "x" * 5000],
        "image_url": ["http://127.0.0.1:1/cat.jpg"],
        "polcy": ["cascade"],
    }
    for name, values in wrong.items():
        found += [
            Bad(f"{name}={value[:30]!r}", arguments={"files": {"image": good}, "data": {name: value}}) for value in values
        ]
    found += [
        Bad(
            "policy and configuration",
            arguments={"files": {"image": good}, "data": {"policy": "default", "configuration": "x"}},
        ),
        Bad("policy twice", arguments={"files": {"image": good}, "data": {"policy": ["default", "cascade"]}}),
        Bad("a file for policy", arguments={"files": {"image": good, "policy": good}}),
        Bad("no image", arguments={"files": {"other": good}}),
        Bad("two images", arguments={"files": [("image", good), ("image", good)]}),
        Bad("text for the image", arguments={"files": {"x": (None, "y"), "image": (None, "http://127.0.0.1:1/cat.jpg")}}),
        Bad("text for the images", "/v1/classify_batch", {"files": {"images": (None, "http://127.0.0.1:1/cat.jpg")}}),
        Bad("no images", "/v1/classify_batch", {"files": {"image": good}}),
        Bad("too many images", "/v1/classify_batch", {"files": [("images", good)] * 80}),
        Bad("JSON", arguments={"json": {"image": "http://127.0.0.1:1/cat.jpg"}}),
        Bad("a bare picture", arguments={"content": good[1], "headers": {"Content-Type": "image/png"}}),
        Bad(
            "a bare address",
            arguments={"content": b"http://127.0.0.1:1/cat.jpg", "headers": {"Content-Type": "application/json"}},
        ),
        Bad("a pickle", arguments={"content": b"x", "headers": {"Content-Type": "application/vnd.bentoml+pickle"}}),
        Bad("nothing", arguments={}),
        Bad("no boundary", arguments={"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
        Bad("a broken form", arguments={"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}),
        Bad(
            "an unended form",
            arguments={
                "content": b'--a\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx',
                "headers": {"Content-Type": "multipart/form-data; boundary=a"},
            },
        ),
        Bad(
            "a strange charset",
            arguments={
                "content": b'--a\r\nContent-Disposition: form-data; name="policy"\r\n\r\nx\r\n--a--\r\n',
                "headers": {"Content-Type": "multipart/form-data; boundary=a; charset=nonesuch"},
            },
        ),
        Bad("a long form", arguments={"files": {"image": good}, "data": {f"x{number}": "1" for number in range(50)}}),
        Bad("unknown page", "/v1/clasify", {"files": {"image": good}}),
        Bad("up the tree", "/v1/../../etc/passwd"),
    ]
    for name, body in {
        "no id": {"label": "bag"},
        "no label": {"id": "x"},
        "unknown id": {"id": "x", "label": "bag"},
        "unknown class": {"id": "x", "label": "cat"},
        "class out of range": {"id": "x", "label": "10"},
        "a list": ["x"],
        "nothing": None,
        "a long id": {"id": "x" * 1000, "label": "bag"},
        "a list for a label": {"id": "x", "label": ["bag"]},
        "a foreign field": {"id": "x", "label": "bag", "network": "y"},
    }.items():
        found.append(Bad(f"feedback: {name}", "/v1/feedback", {"json": body}))
    found += [
        Bad("feedback: no JSON", "/v1/feedback", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        Bad(
            "feedback: deep JSON",
            "/v1/feedback",
            {"content": b"[" * 60_000, "headers": {"Content-Type": "application/json"}},
        ),
        Bad("feedback: large", "/v1/feedback", {"content": b"1" * 200_000, "headers": {"Content-Type": "application/json"}}),
        Bad("feedback: no bytes", "/v1/feedback", {"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}),
    ]
    return found
