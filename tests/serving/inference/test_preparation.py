from __future__ import annotations

import asyncio
import io
import logging
import threading

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.datastructures import UploadFile

from serving.errors import Rejection
from serving.inference import preparation
from serving.inference.preparation import Preparation, _unpacks
from tests.serving.bad_inputs import picture
from tests.serving.strange_pictures import jpeg_of_scans


def test_a_client_that_goes_while_its_picture_is_decoded_is_no_bug_in_the_log(heard: list[logging.LogRecord]) -> None:
    async def main() -> None:
        preparation = Preparation(lambda picture: np.zeros(1), 25, 25)
        upload = UploadFile(io.BytesIO(b"x"), size=1)
        upload.file.close()
        assert isinstance(preparation._array(upload), Rejection)
        preparation.close()

    asyncio.run(main())
    assert heard == []


def upload(data: bytes) -> UploadFile:
    return UploadFile(io.BytesIO(data), size=len(data))


def test_costly_requests_wait_for_each_other_and_nobody_else_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of four progressive photographs once made an honest one wait for 73 s."""
    monkeypatch.setattr(preparation, "_SMALL", 0)
    gate = threading.Event()

    def transform(made: Image.Image) -> np.ndarray:
        if made.size == (90, 90):
            assert gate.wait(20)
        return np.zeros(1)

    async def main() -> None:
        made = Preparation(transform, 1, 0.01)
        costly = [asyncio.create_task(made.prepare([upload(picture(size=(90, 90))) for _ in range(2)])) for _ in range(8)]
        costly += [asyncio.create_task(made.prepare([upload(jpeg_of_scans(90, 2))])) for _ in range(8)]
        await asyncio.sleep(0.2)
        (found,) = await asyncio.wait_for(made.prepare([upload(picture(size=(80, 80)))]), 10)
        assert isinstance(found, np.ndarray)
        assert not any(task.done() for task in costly)
        gate.set()
        assert all(isinstance(each, np.ndarray) for one in await asyncio.gather(*costly) for each in one)
        made.close()

    asyncio.run(main())


def test_scans_of_a_request_have_a_limit_together() -> None:
    async def main() -> None:
        made = Preparation(lambda picture: np.zeros(1), 1, 0.01)
        scans = upload(jpeg_of_scans(95, 2))
        with pytest.raises(Rejection, match="too many scans together"):
            await made.prepare([scans] * 8)
        made.close()

    asyncio.run(main())


def test_what_has_to_be_unpacked_is_not_looked_through_in_the_event_loop() -> None:
    plain, text = io.BytesIO(), PngInfo()
    text.add_text("note", "x" * 1000, zip=True)
    packed = io.BytesIO()
    Image.new("L", (8, 8)).save(plain, "PNG")
    Image.new("L", (8, 8)).save(packed, "PNG", pnginfo=text)
    assert [_unpacks(upload(data.getvalue())) for data in (plain, packed)] == [False, True]
    seen: list[str] = []

    async def main() -> None:
        preparation = Preparation(np.asarray, 1, 1)
        headers = preparation._headers

        def noting(uploads):  # type: ignore[no-untyped-def]
            seen.append(threading.current_thread().name)
            return headers(uploads)

        preparation._headers = noting  # type: ignore[method-assign]
        for data in (plain, packed):
            (made,) = await preparation.prepare([upload(data.getvalue())])
            assert isinstance(made, np.ndarray)
        preparation.close()

    asyncio.run(main())
    assert seen[0] == threading.main_thread().name
    assert seen[1].startswith("decoder")
