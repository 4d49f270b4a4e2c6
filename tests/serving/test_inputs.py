from __future__ import annotations

import dataclasses
import io
from contextlib import suppress

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from serving.errors import CODES, Rejected
from serving.inference.classifier import _class_index
from serving.inference.deployment import Served
from serving.inference.pictures import decode, open_picture, webp_pixels
from serving.live.store import new_id
from serving.settings import ServingSettings
from tests.serving.bad_inputs import bad_pictures, bad_requests, picture, png_of

DOCUMENTED = {status for status, _ in CODES.values() if 400 <= status < 500}


def test_every_bad_input_gets_a_documented_4xx_in_one_shape(client: httpx.Client) -> None:
    requests = bad_requests()
    assert len(requests) >= 250
    wrong = []
    for bad in requests:
        response = client.post(bad.path, **bad.arguments)
        body = response.json()
        message = str(body.get("error", {}).get("message", ""))
        if not (
            response.status_code in DOCUMENTED
            and body.keys() == {"error"}
            and body["error"].keys() == {"code", "message"}
            and CODES[body["error"]["code"]][0] == response.status_code
            and message
            and "Traceback" not in response.text
            and "/tmp" not in response.text
            and "site-packages" not in response.text
        ):
            wrong.append((bad.name, response.status_code, response.text[:200]))
    assert not wrong
    assert client.get("/livez").status_code == 200


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
        ("CMYK JPEG", "unsupported_media_type"),
        ("grey PNG of 16 bits", "unsupported_media_type"),
        ("colour PNG of 16 bits", "unsupported_media_type"),
        ("palette PNG", "unsupported_media_type"),
        ("animated WEBP", "unsupported_media_type"),
        ("GIF", "unsupported_media_type"),
        ("text", "unsupported_media_type"),
    ],
)
def test_each_kind_of_bad_picture_says_what_is_wrong(name: str, code: str) -> None:
    data = dict(bad_pictures())[name]
    with pytest.raises(Rejected) as refused:
        decode(open_picture(data, 25))
    assert refused.value.code == code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_ordinary_pictures_are_decoded_as_pillow_does(kind: str, mode: str) -> None:
    if (kind, mode[-1]) == ("JPEG", "A") or (kind, mode) == ("WEBP", "LA"):
        pytest.skip("the format has no such mode")
    data = picture(kind, mode=mode)
    decoded = decode(open_picture(data, 25))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.array(decoded), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


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
    with pytest.raises(Rejected):
        open_picture(png_of(12_000, 12_000, data=bytes(12_000 * 12_001)), 25)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_whatever_bytes_change_a_picture_is_decoded_or_refused(kind: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(picture(kind))
    for place, value in flips:
        data[int(place * len(data))] = value
    with suppress(Rejected):
        assert decode(open_picture(bytes(data), 25)).mode == "RGB"


def test_pictures_of_a_request_have_a_limit_together(client: httpx.Client) -> None:
    large = png_of(4900, 5000, data=bytes(4901 * 5000))
    response = client.post("/v1/classify_batch", files=[("images", large)] * 5)
    assert response.status_code == 413
    assert "together" in response.json()["error"]["message"]


def test_one_picture_that_cannot_be_prepared_harms_nobody(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.inference import classifier

    def decode_or_fail(opened: Image.Image) -> Image.Image:
        if opened.size == (41, 41):
            raise MemoryError
        return decode(opened)

    monkeypatch.setattr(classifier, "decode", decode_or_fail)
    files = [("images", picture(size=(side, side))) for side in (40, 41, 42)]
    results = client.post("/v1/classify_batch", files=files).json()["results"]
    assert [r["error"] and r["error"]["code"] for r in results] == [None, "bad_image", None]


def test_a_queue_that_is_full_refuses_before_the_body_is_read(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import bentoml

    classifier = bentoml.get_current_service().classifier
    monkeypatch.setattr(classifier, "_preparing", 10_000)
    response = client.post("/v1/classify", files={"image": picture()})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "overloaded"
    assert int(response.headers["Retry-After"]) >= 1


def test_a_database_that_is_away_is_no_bug_of_ours(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import bentoml
    from sqlalchemy.exc import OperationalError

    def away(*arguments: object) -> None:
        raise OperationalError("select", {}, Exception("no route to host secret.example"))

    id_ = client.post("/v1/classify", files={"image": picture()}).json()["id"]
    monkeypatch.setattr(bentoml.get_current_service().classifier.store, "add_label", away)
    response = client.post("/v1/feedback", json={"id": id_, "label": "bag"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert "secret" not in response.text


def test_bodies_over_the_limit_are_413_announced_or_chunked(client: httpx.Client) -> None:
    large = b"x" * (33 * 2**20)
    announced = client.post("/v1/classify", files={"image": ("a.png", large)})

    def chunks() -> object:
        head = b'--a\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        yield head
        for _ in range(33):
            yield b"x" * 2**20

    headers = {"Content-Type": "multipart/form-data; boundary=a"}
    chunked = client.post("/v1/classify", content=chunks(), headers=headers)  # type: ignore[arg-type]
    for response in (announced, chunked):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too_large"


def test_refused_uploads_give_their_places_back(client: httpx.Client) -> None:
    form = {"id": (None, "x" * 70_000), "label": (None, "bag")}
    for _ in range(ServingSettings(device="cpu").max_uploads + 1):
        assert client.post("/v1/feedback", files=form).status_code == 413
    assert client.post("/v1/classify", files={"image": picture()}).status_code == 200


def test_a_field_name_that_no_json_can_hold_is_refused_at_once(client: httpx.Client) -> None:
    part = b'--a\r\nContent-Disposition: form-data; name="+2AA-"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=a; charset=utf-7"}
    for content in (part + b"--a--\r\n", 2 * part + b"--a--\r\n"):
        response = client.post("/v1/classify", content=content, headers=headers)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "invalid"


def test_not_ready_says_when_to_come_again(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import bentoml

    monkeypatch.setattr(bentoml.get_current_service(), "_closing", True)
    for path in ("/readyz", "/v1/network"):
        response = client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "starting")
        assert int(response.headers["Retry-After"]) >= 1


def test_an_answer_that_is_not_recorded_yet_can_be_labelled_later(client: httpx.Client) -> None:
    response = client.post("/v1/feedback", json={"id": new_id(), "label": "bag"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"]
    old = client.post("/v1/feedback", json={"id": "0" * 27, "label": "bag"})
    assert (old.status_code, old.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_s_size_is_read_without_opening_it(lossless: bool, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture("WEBP", (70, 50), mode, lossless=lossless)
    assert webp_pixels(io.BytesIO(data)) == 3500
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(Rejected) as refused:
        open_picture(data, 0.003)
    assert refused.value.code == "too_large"


def test_only_the_scans_of_the_picture_itself_count() -> None:
    """A phone's moving picture has a film behind it, and a film has any bytes."""
    film = np.random.default_rng(0).bytes(2**20) + b"\xff\xda" * 500
    assert decode(open_picture(picture("JPEG") + film, 25)).size == (40, 40)
    assert decode(open_picture(picture("JPEG", progressive=True) + film, 25)).size == (40, 40)
    segments = picture("JPEG")[:2] + b"\xff\xe1\x00\x02" * 20_000 + picture("JPEG")[2:]
    with pytest.raises(Rejected, match="segments"):
        open_picture(segments, 25)


def test_a_number_is_an_index_whatever_the_classes_are_called(served: Served) -> None:
    named = dataclasses.replace(served, classes=("0", "1", "10", "2"))
    assert _class_index(named, 2) == 2
    assert _class_index(named, "2") == 3
    assert _class_index(served, "2") == 2
    with pytest.raises(Rejected):
        _class_index(named, 4)
