from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from starlette.datastructures import UploadFile

from serving.errors import Rejection
from serving.http import forms
from serving.http.forms import FIELD_BYTES, Disk, FormReader
from serving.http.uploads import Uploads
from serving.operation import logs

BOUNDARY = "multipart/form-data; boundary=a"


def part(name: str, body: bytes, filename: str | None = None) -> bytes:
    more = f'; filename="{filename}"' if filename is not None else ""
    return f'--a\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + body + b"\r\n"


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def _plain(value: str | UploadFile) -> object:
    return value if isinstance(value, str) else (value.filename, value.size, value.file.read())


def read(data: bytes, max_files: int = 3, size: int = 1000) -> dict[str, list[object]]:
    async def main() -> dict[str, list[object]]:
        with FormReader(BOUNDARY, max_files) as reader:
            found = await reader.read(pieces(data, size))
            return {
                n: [v if isinstance(v, str) else (v.filename, v.size, v.file.read()) for v in vs] for n, vs in found.items()
            }

    return asyncio.run(main())


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("memory", [10, 2**20])
def test_a_form_is_read_in_any_pieces_in_memory_or_on_disk(size: int, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MEMORY_BYTES", memory)
    data = part("image", b"\r\n--b\0" * 9, "ä.png") + part("top_k", b"3") + part("image", b"", "") + part("x", "ä".encode())
    assert read(data + b"--a--\r\n", size=size) == {
        "image": [("ä.png", 54, b"\r\n--b\0" * 9), ("", 0, b"")],
        "top_k": ["3"],
        "x": ["ä"],
    }


@pytest.mark.parametrize(("kind", "file"), [("image/png", True), ("Application/Octet-Stream", True), ("text/plain", False)])
def test_a_picture_needs_no_file_name(kind: str, file: bool) -> None:
    head = f'--a\r\nContent-Type: {kind}\r\nContent-Disposition: form-data; name="image"\r\n\r\n'.encode()
    assert read(head + b"x\r\n--a--\r\n") == {"image": [("", 1, b"x") if file else "x"]}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (part("image", b"x", "a") * 4 + b"--a--\r\n", "too_large"),
        (part("x", b"1") * 33 + b"--a--\r\n", "malformed"),
        (part("x", b"\xff") + b"--a--\r\n", "malformed"),
        (part("image", b"x", "a"), "malformed"),
        (b"--a\r\nContent-Type: text/plain\r\n\r\nx\r\n--a--\r\n", "malformed"),
        (b"--a\r\nX-A: " + b"x" * 100_000, "malformed"),
        (b"--a\r\n" + b"X-A: b\r\n" * 1000, "malformed"),
        (b"hello", "malformed"),
    ],
)
def test_what_is_no_form_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(Rejection) as refused:
        read(data)
    assert refused.value.code == code


def test_text_is_limited_while_it_is_read() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        yield part("policy", b"")[:-2]
        while True:
            taken += 1000
            yield b"x" * 1000

    async def main() -> None:
        with FormReader(BOUNDARY, 1) as reader:
            await reader.read(endless())

    with pytest.raises(Rejection, match="form value of more than 4096 bytes") as refused:
        asyncio.run(main())
    assert refused.value.code == "invalid"
    assert taken <= FIELD_BYTES + 1000


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "/secret"), MemoryError()])
def test_a_full_folder_is_no_bug_and_one_line_in_the_log(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: object, data: bytes) -> None:
        raise error

    monkeypatch.setattr(forms, "MEMORY_BYTES", 10)
    monkeypatch.setattr(forms, "_write_to_disk", full)
    logs._said.clear()
    with caplog.at_level("WARNING", "serving"):
        for _ in range(5):
            with pytest.raises(Rejection) as refused:
                read(part("image", b"x" * 100, "a") + b"--a--\r\n")
            assert (refused.value.status, refused.value.retry_after) == (503, 10)
            assert "secret" not in refused.value.message
    assert len(caplog.records) == 1


def test_forms_share_the_disk_until_they_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MEMORY_BYTES", 10)
    disk = Disk(most=250)
    whole = part("image", b"x" * 100, "a") + b"--a--\r\n"

    async def main() -> None:
        with FormReader(BOUNDARY, 1, disk) as first, FormReader(BOUNDARY, 1, disk) as second:
            await first.read(pieces(whole, 7))
            await second.read(pieces(whole, 7))
            assert disk.taken == 200
            with FormReader(BOUNDARY, 1, disk) as third, pytest.raises(Rejection, match="no room for the upload"):
                await third.read(pieces(whole, 7))
            with FormReader(BOUNDARY, 1, disk) as small:
                await small.read(pieces(part("image", b"x" * 5, "a") + b"--a--\r\n"))  # stays in memory
        assert disk.taken == 0

    asyncio.run(main())


def test_forms_share_memory_and_what_is_too_much_for_it_goes_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MEMORY_TOGETHER", 250)
    disk, whole = Disk(), part("image", b"x" * 100, "a") + b"--a--\r\n"

    async def main() -> None:
        with ExitStack() as opened:
            readers = [opened.enter_context(FormReader(BOUNDARY, 1, disk)) for _ in range(40)]
            found = [await reader.read(pieces(whole)) for reader in readers]
            assert (disk.in_memory, disk.taken) == (200, 38 * 100)
            assert all(form["image"][0].file.read() == b"x" * 100 for form in found)
            assert sum(form["image"][0].file._rolled for form in found) == 38
        assert (disk.in_memory, disk.taken) == (0, 0)

    asyncio.run(main())


def test_files_are_closed_also_those_of_a_form_that_never_ends() -> None:
    async def main() -> None:
        with FormReader(BOUNDARY, 1) as reader:
            with pytest.raises(Rejection):
                await reader.read(pieces(part("image", b"x", "a")))
            (upload,) = reader._files
            assert not upload.file.closed
        assert upload.file.closed

    asyncio.run(main())


def test_a_body_that_stalls_or_crawls_is_given_up_and_a_steady_one_is_not() -> None:
    async def send(uploads: Uploads, bytes_a_tick: int, ticks: int) -> str:
        try:
            async with uploads.reading() as upload:
                for _ in range(ticks):
                    await asyncio.sleep(0.02)
                    upload.add(bytes_a_tick)
        except Rejection as rejection:
            return rejection.code
        return "done"

    async def main() -> None:
        uploads = Uploads(limit=10, seconds=20, grace=0.1, pace=1000)
        found = await asyncio.gather(send(uploads, 0, 10**6), send(uploads, 1, 10**6), send(uploads, 200, 30))
        assert found == ["timeout", "timeout", "done"]
        assert len(uploads) == 0
        hurried = Uploads(limit=10, seconds=0.2, grace=0.1, pace=1000)
        assert await send(hurried, 10**6, 10**6) == "timeout"
        patient = Uploads(limit=10, seconds=20, grace=0.01, pace=0)
        assert await send(patient, 0, 10) == "done"

    asyncio.run(main())


def test_stalled_uploads_give_way_and_steady_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.http.uploads._YOUNG", 0.05)

    async def main() -> None:
        uploads = Uploads(limit=4, seconds=20, grace=10, pace=1000)
        ends: list[str] = []

        async def send(bytes_at_once: int) -> None:
            try:
                async with uploads.reading() as upload:
                    upload.add(bytes_at_once)
                    await asyncio.sleep(5)
            except Rejection as rejection:
                ends.append(rejection.code)

        steady = [asyncio.create_task(send(10**6)) for _ in range(2)]
        stalled = [asyncio.create_task(send(100)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Rejection, match="4 uploads are read already"):
            async with uploads.reading():
                pass
        await asyncio.sleep(0.15)
        for _ in range(2):
            async with uploads.reading() as upload:
                upload.add(10**6)
        await asyncio.sleep(0.05)
        assert ends == ["timeout"]
        assert sum(task.done() for task in stalled) == 1
        assert not any(task.done() for task in steady)
        for task in (*steady, *stalled):
            task.cancel()

    asyncio.run(main())


def test_an_upload_whose_time_is_just_over_may_be_given_up_too() -> None:
    """Many that stall together end in the same turn of the event loop in which the next one asks for their place."""

    async def main() -> None:
        loop, failures = asyncio.get_running_loop(), list[object]()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        uploads = Uploads(limit=1, seconds=0.05, grace=0.05, pace=1000)

        async def stall() -> None:
            async with uploads.reading() as upload:
                loop.call_at(upload.began + 0.055, upload.give_up)
                time.sleep(0.06)  # so both are due in the next turn
                await asyncio.sleep(60)

        with pytest.raises(Rejection, match="took more than"):
            await stall()
        assert failures == []

    asyncio.run(main())
