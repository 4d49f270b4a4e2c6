from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from dynamic.preprocessing import centred_preprocessing, imagenet_preprocessing
from dynamic.scenes import scenes_preprocessing
from serving.errors import Rejection
from serving.inference.decoding import decode, open_picture
from serving.inference.headers import read_header
from tests.pictures import corpus
from tests.serving.bad_inputs import bad_pictures, picture, png_of


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("empty", "bad_image"),
        ("PNG cut at 49%", "bad_image"),
        ("JPEG cut at 49%", "bad_image"),
        ("WEBP cut at 49%", "bad_image"),
        ("PNG of 1 pixels", "bad_image"),
        ("PNG of 8 x 12000", "bad_image"),
        ("JPEG of 5000 scans", "bad_image"),
        ("PNG bomb", "too_large"),
        ("PNG that claims 50000 x 50000", "too_large"),
        ("animated WEBP", "unsupported_media_type"),
        ("GIF", "unsupported_media_type"),
        ("text", "unsupported_media_type"),
    ],
)
def test_each_kind_of_bad_picture_says_what_is_wrong(name: str, code: str) -> None:
    data = dict(bad_pictures())[name]
    with pytest.raises(Rejection) as refused:
        decode(open_picture(data, 25))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEheic", "HEIC, as iPhones store photos"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC, as iPhones store photos"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF"),
        (picture("GIF"), "GIF"),
        (picture("TIFF"), "TIFF, or a camera's raw file"),
        (picture("BMP"), "BMP"),
        (picture("PDF"), "PDF"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_what_to_do(data: bytes, name: str) -> None:
    with pytest.raises(Rejection) as refused:
        open_picture(data, 25)
    assert refused.value.status == 415
    assert (
        refused.value.message
        == f"the file is {name}, which is not read: send a JPEG, PNG or WebP picture, converted from it"
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", corpus())
def test_every_picture_is_to_the_service_what_it_is_offline(name: str) -> None:
    data = corpus()[name]
    for prepare in (imagenet_preprocessing(), scenes_preprocessing(), centred_preprocessing(32, (0.3,), (0.2,))):
        served = prepare(decode(open_picture(data, 25)))
        with Image.open(io.BytesIO(data)) as image:
            assert torch.equal(prepare(image), served)
        assert served.isfinite().all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_honoured(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    data = picture(kind, (60, 30), exif=exif.tobytes())
    upright = np.array(Image.open(io.BytesIO(data)).convert("RGB")).swapaxes(0, 1)[:, ::-1]
    assert np.array_equal(np.array(decode(open_picture(data, 25))), upright)


def test_a_broken_exif_block_does_not_spoil_a_good_picture() -> None:
    data = picture("JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert decode(open_picture(data, 25)).size == (40, 40)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(Rejection):
        open_picture(png_of(12_000, 12_000, data=bytes(12_000 * 12_001)), 25)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([name for name in corpus() if "turned" not in name]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_whatever_bytes_change_a_picture_is_decoded_or_refused(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(corpus()[name])
    for place, value in flips:
        data[int(place * len(data))] = value
    with suppress(Rejection):
        assert decode(open_picture(bytes(data), 25)).mode in ("RGB", "L")


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_s_size_is_read_without_opening_it(lossless: bool, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture("WEBP", (70, 50), mode, lossless=lossless)
    assert read_header(io.BytesIO(data)).pixels == 3500
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(Rejection) as refused:
        open_picture(data, 0.003)
    assert refused.value.code == "too_large"


def test_only_the_scans_of_the_picture_itself_count() -> None:
    """A phone's moving picture has a film behind it, and a film has any bytes."""
    film = np.random.default_rng(0).bytes(2**20) + b"\xff\xda" * 500
    assert decode(open_picture(picture("JPEG") + film, 25)).size == (40, 40)
    assert decode(open_picture(picture("JPEG", progressive=True) + film, 25)).size == (40, 40)
    segments = picture("JPEG")[:2] + b"\xff\xe1\x00\x02" * 20_000 + picture("JPEG")[2:]
    with pytest.raises(Rejection, match="segments"):
        open_picture(segments, 25)
