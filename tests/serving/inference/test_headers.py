from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from serving.errors import Rejection
from serving.inference import decoding
from serving.inference.decoding import decode, open_picture
from serving.inference.headers import CHUNKS, read_header
from tests.pictures import corpus, gradient, saved
from tests.serving.bad_inputs import picture
from tests.serving.strange_pictures import ORIENTATION, costly, exif_of, jpeg_of_scans, jpeg_with_exif, png_with, strange


@pytest.mark.parametrize("name", corpus())
def test_a_header_says_the_size_that_pillow_finds(name: str) -> None:
    with Image.open(io.BytesIO(corpus()[name])) as image:
        header = read_header(io.BytesIO(corpus()[name]))
        assert (header.width, header.height) == image.size
        assert header.format == ("JPEG" if image.format == "MPO" else image.format)


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return strange()


@pytest.mark.parametrize("name", range(15))
def test_what_stands_around_the_pixels_is_refused_before_pillow_sees_it(
    pictures: dict[str, bytes], name: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [*pictures.values()][name]
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("opened"))
    tracemalloc.start()
    try:
        with pytest.raises(Rejection) as refused:
            open_picture(data, 64, 25)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert 400 <= refused.value.status < 500
    assert "save it" in refused.value.message or "scans" in refused.value.message or "tables" in refused.value.message


@pytest.mark.parametrize("name", costly())
def test_a_file_that_is_slow_to_look_through_takes_no_longer_than_it_must(name: str) -> None:
    """Of processor time: Pillow read fill bytes again with every piece, which took 4.5 s, and junk byte by byte, 11 s."""
    data, began = costly()[name], time.thread_time()
    with suppress(Rejection):
        decode(open_picture(data, 64, 25))
    assert time.thread_time() - began < 2


def test_a_picture_has_as_many_chunks_as_the_largest_honest_one() -> None:
    """A PNG of 32 MiB in chunks of 8 KiB, as libpng writes them."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(pixels), "PNG")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    cut = [data[at : at + 750] for at in range(0, len(data), 750)]
    assert 4000 < len(cut) < CHUNKS
    parts = b"".join(struct.pack(">I", len(d)) + b"IDAT" + d + struct.pack(">I", zlib.crc32(b"IDAT" + d)) for d in cut)
    found = decode(open_picture(whole[:33] + parts + whole[-12:], 25))
    assert np.array_equal(np.asarray(found), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "beside",
    [
        (0x9286, 7, 2**31, b"\xff\xff\xff\x7f"),  # longer than the file
        (0x0001, 99, 1, bytes(4)),  # of no known type
        (0x013B, 2, 50, struct.pack("<I", 2**31)),  # a text behind the end
        (0x011A, 5, 0, bytes(4)),  # nothing
    ],
)
def test_the_orientation_counts_whatever_stands_beside_it(kind: str, beside: tuple[int, int, int, bytes]) -> None:
    block = exif_of([beside, ORIENTATION])
    data = jpeg_with_exif(block) if kind == "JPEG" else png_with((b"eXIf", block[6:]), size=(60, 30))
    assert decode(open_picture(data, 25)).size == (30, 60)


def test_pillow_s_warnings_stay_off_stderr() -> None:
    data = jpeg_with_exif(exif_of([(0x9286, 7, 2**31, b"\xff\xff\xff\x7f"), ORIENTATION]))
    for silent in (False, True):
        with warnings.catch_warnings(record=True) as said:
            warnings.resetwarnings()
            warnings.simplefilter("always")
            if silent:
                decoding.silence_pillow()
            open_picture(data, 25)
        assert bool(said) is not silent, "otherwise this tests nothing"


def test_scans_cost_by_the_pixels_they_go_over() -> None:
    assert decode(open_picture(jpeg_of_scans(200, 80), 25)).size == (200, 200)
    with pytest.raises(Rejection, match="fewer scans"):
        open_picture(jpeg_of_scans(2500, 80), 25)
    usual = saved(Image.new("RGB", (4000, 3000)), "JPEG", progressive=True)
    assert open_picture(usual, 25).size == (4000, 3000)


@pytest.fixture(scope="module")
def photograph() -> bytes:
    """48 megapixels, as phones make them."""
    return saved(gradient().resize((8064, 6048), Image.Resampling.BILINEAR), "JPEG", quality=80)


def test_a_photograph_of_48_megapixels_is_decoded_small_and_looks_the_same(photograph: bytes) -> None:
    small = decode(open_picture(photograph, 64, 25))
    assert small.size == (4032, 3024)
    with Image.open(io.BytesIO(photograph)) as image:
        whole = image.convert("RGB").resize((224, 168), Image.Resampling.BOX)
    mine = small.resize((224, 168), Image.Resampling.BOX)
    difference = np.abs(np.asarray(mine, float) - np.asarray(whole, float))
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def test_what_cannot_be_decoded_small_has_the_lower_limit(photograph: bytes) -> None:
    with pytest.raises(Rejection, match="64 megapixels"):
        open_picture(photograph[:1000].replace(struct.pack(">HH", 6048, 8064), struct.pack(">HH", 9000, 9000)), 64, 25)
    with pytest.raises(Rejection, match="25 megapixels of progressive JPEG, or a plain JPEG"):
        open_picture(saved(Image.new("L", (6000, 5000)), "JPEG", progressive=True), 64, 25)
    with pytest.raises(Rejection, match="25 megapixels of PNG"):
        open_picture(saved(Image.new("1", (6000, 5000)), "PNG"), 64, 25)


def test_everyday_pictures_with_much_around_them_are_taken() -> None:
    profile = bytes(range(256)) * 8000  # of two megabytes, as printers have them
    assert decode(open_picture(saved(gradient(), "PNG", icc_profile=profile), 25)).size == (60, 40)
    assert decode(open_picture(saved(gradient().convert("CMYK"), "JPEG", icc_profile=profile), 25)).mode == "RGB"
    workflow = png_with(
        (b"tEXt", b"workflow\0" + b"{}" * 200_000), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 9000)
    )
    assert decode(open_picture(workflow, 25)).size == (40, 40)


def test_no_memory_is_no_bad_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise MemoryError

    opened = open_picture(picture(), 25)
    monkeypatch.setattr(Image.Image, "load", full)
    with pytest.raises(Rejection) as refused:
        decode(opened)
    assert (refused.value.code, refused.value.status) == ("overloaded", 503)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(Rejection) as refused:
        open_picture(picture(), 25)
    assert refused.value.code == "overloaded"
