from __future__ import annotations

import io

import pytest
from PIL import Image
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from serving.errors import CODES
from serving.ids import new_id
from serving.inference.decoding import decode
from serving.settings import ServingSettings
from tests.pictures import corpus, saved
from tests.serving.bad_inputs import bad_requests, picture, png_of
from tests.serving.conftest import worker_of

DOCUMENTED = {status for status, _ in CODES.values() if 400 <= status < 500}


def test_every_bad_input_gets_a_documented_4xx_in_one_shape(client: TestClient) -> None:
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


def test_everyday_pictures_that_are_not_plain_rgb_are_answered(client: TestClient) -> None:
    names = ("palette PNG", "palette PNG with a clear colour", "CMYK JPEG", "PNG of 16 bits", "one-bit PNG", "RGBA PNG")
    for name in names:
        response = client.post("/v1/classify", files={"image": (name, corpus()[name])})
        assert response.status_code == 200, (name, response.text)


def test_pictures_of_a_request_have_a_limit_together(client: TestClient) -> None:
    large = png_of(4900, 5000, data=bytes(4901 * 5000))
    response = client.post("/v1/classify_batch", files=[("images", large)] * 11)
    assert response.status_code == 413
    assert "250 megapixels together" in response.json()["error"]["message"]


def test_nine_photos_of_twelve_megapixels_are_answered(client: TestClient) -> None:
    photo = picture("JPEG", (40, 30), "L")
    photo = saved(Image.open(io.BytesIO(photo)).resize((4000, 3000)), "JPEG")
    response = client.post("/v1/classify_batch", files=[("images", photo)] * 9)
    assert response.status_code == 200, response.text
    assert all(result["error"] is None for result in response.json()["results"])


def test_one_picture_that_cannot_be_prepared_harms_nobody(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.inference import preparation

    def decode_or_fail(opened: Image.Image) -> Image.Image:
        if opened.size == (41, 41):
            raise MemoryError
        return decode(opened)

    monkeypatch.setattr(preparation, "decode", decode_or_fail)
    files = [("images", picture(size=(side, side))) for side in (40, 41, 42)]
    results = client.post("/v1/classify_batch", files=files).json()["results"]
    assert [r["error"] and r["error"]["code"] for r in results] == [None, "overloaded", None]


def test_a_queue_that_is_full_refuses_before_the_body_is_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_of(client).classifier.preparation, "_pending", 10_000)
    response = client.post("/v1/classify", files={"image": picture()})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "overloaded"
    assert int(response.headers["Retry-After"]) >= 1


def test_a_database_that_is_away_is_no_bug_of_ours(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: object) -> None:
        raise OperationalError("select", {}, Exception("no route to host secret.example"))

    id_ = client.post("/v1/classify", files={"image": picture()}).json()["id"]
    monkeypatch.setattr(worker_of(client).classifier.store, "add_label", away)
    response = client.post("/v1/feedback", json={"id": id_, "label": "bag"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert "secret" not in response.text


def test_bodies_over_the_limit_are_413_announced_or_chunked(client: TestClient) -> None:
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


def test_refused_uploads_give_their_places_back(client: TestClient) -> None:
    form = {"id": (None, "x" * 70_000), "label": (None, "bag")}
    for _ in range(ServingSettings(device="cpu").max_uploads + 1):
        assert client.post("/v1/feedback", files=form).status_code == 413
    assert client.post("/v1/classify", files={"image": picture()}).status_code == 200


def test_a_field_name_that_no_json_can_hold_is_refused_at_once(client: TestClient) -> None:
    part = b'--a\r\nContent-Disposition: form-data; name="+2AA-"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=a; charset=utf-7"}
    for content in (part + b"--a--\r\n", 2 * part + b"--a--\r\n"):
        response = client.post("/v1/classify", content=content, headers=headers)
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "invalid"


def test_not_ready_says_when_to_come_again(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_of(client), "_closing", True)
    for path in ("/readyz", "/v1/network"):
        response = client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "starting")
        assert int(response.headers["Retry-After"]) >= 1


def test_an_answer_that_is_not_recorded_yet_can_be_labelled_later(client: TestClient) -> None:
    response = client.post("/v1/feedback", json={"id": new_id(), "label": "bag"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert response.headers["Retry-After"]
    old = client.post("/v1/feedback", json={"id": "0" * 27, "label": "bag"})
    assert (old.status_code, old.json()["error"]["code"]) == (404, "not_found")
