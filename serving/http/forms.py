"""Forms, read within limits that hold while they are read: text in memory, files in memory for a little and then on disk."""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers, UploadFile

from serving.errors import Rejection
from serving.operation import logs

FIELDS = 32
"""Fields with text that a form may have."""

FIELD_BYTES = 4096
"""Of each."""

MEMORY_BYTES = 4 * 2**20
"""Of a form's files that stay in memory; what comes behind goes to disk."""

MEMORY_TOGETHER = 32 * 2**20
"""Of all forms' files, likewise: those of many that stall are not all in memory."""

_FILES = ("image/", "application/octet-stream")
"""Types of parts that are files, whether they have a file's name or not: some clients send pictures without."""

Form = dict[str, list[str | UploadFile]]
"""What a form says, by name."""


class Disk:
    """What forms have on disk and in memory together, from when they are read until their answers are sent.

    Args:
        most: bytes on disk.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._most, self.taken, self.in_memory = most, 0, 0

    def take(self, size: int) -> None:
        """Take some bytes. Raises OSError where so many are not left."""
        if self.taken + size > self._most:
            raise OSError(errno.ENOSPC, f"uploads that are not answered yet take {self.taken / 2**20:.0f} MiB")
        self.taken += size


class FormReader:
    """Reads one form; closes its files when it is left as a context, also those of a form that never ended.

    Args:
        content_type: of the request, with the form's boundary.
        max_files: that the form may have.
        disk: that it shares with others; one of its own unless given.

    Raises:
        Rejection: there is no boundary.
    """

    def __init__(self, content_type: str, max_files: int, disk: Disk | None = None) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise Rejection("malformed", "multipart/form-data without a boundary: let your client set Content-Type")
        callbacks: Any = {
            "on_part_begin": self._on_part_begin,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise Rejection("malformed", f"the form cannot be parsed: {str(error)[:200]}") from None
        self._max_files, self._form, self._ended = max_files, Form(), False
        self._disk, self._received, self._on_disk, self._in_memory = disk or Disk(), 0, 0, 0
        self._files: list[UploadFile] = []
        self._fields = 0
        self._part = _Part()
        self._pending: list[tuple[UploadFile, bytes]] = []

    def __enter__(self) -> FormReader:
        return self

    def __exit__(self, *error: object) -> None:
        for upload in self._files:
            upload.file.close()
        self._disk.taken -= self._on_disk
        self._disk.in_memory -= self._in_memory

    async def read(self, stream: AsyncIterable[bytes]) -> Form:
        """Read the form to its end.

        Raises:
            Rejection: what cannot be parsed, too many files or fields, too much text, or no room for the files.
        """
        try:
            async for piece in stream:
                self._parser.write(piece)
                for upload, data in self._pending:
                    await self._write(upload, data)
                self._pending.clear()
        except FormParserError as error:
            raise Rejection("malformed", f"the form cannot be parsed: {str(error)[:200]}") from None
        except (OSError, MemoryError) as error:
            facts = {"error": f"{type(error).__name__}: {error}"}
            logs.seldom("uploads", "no room for uploads: the folder for temporary files or memory is full", facts=facts)
            raise Rejection("overloaded", "the server has no room for the upload: try again", retry_after=10) from None
        if not self._ended:
            raise Rejection("malformed", "the form cannot be parsed: it does not end with its boundary")
        for upload in self._files:
            upload.file.seek(0)
        return self._form

    async def _write(self, upload: UploadFile, data: bytes) -> None:
        upload.size = (upload.size or 0) + len(data)
        self._received += len(data)
        if self._received > MEMORY_BYTES or self._disk.in_memory + len(data) > MEMORY_TOGETHER:
            more = self._received - self._on_disk
            self._disk.take(more)
            self._on_disk += more
            await asyncio.to_thread(_write_to_disk, upload.file, data)
        else:
            self._disk.in_memory += len(data)
            self._in_memory += len(data)
            upload.file.write(data)

    def _on_part_begin(self) -> None:
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _on_header_end(self) -> None:
        part = self._part
        if part.header.lower() == b"content-disposition":
            _, part.disposition = parse_options_header(part.value)
        elif part.header.lower() == b"content-type":
            part.content_type = part.value.decode("latin-1")
        part.header, part.value = b"", b""

    def _on_headers_finished(self) -> None:
        part = self._part
        if b"name" not in part.disposition:
            raise Rejection("malformed", "the form cannot be parsed: a part without a name")
        part.name = part.disposition[b"name"].decode("utf-8", "replace")
        if b"filename" in part.disposition or part.content_type.lower().startswith(_FILES):
            if len(self._files) >= self._max_files:
                raise Rejection("too_large", f"more than {self._max_files} files: send fewer")
            file = SpooledTemporaryFile()  # noqa: SIM115, closed with the form
            headers = Headers({"content-type": part.content_type}) if part.content_type else None
            name = part.disposition.get(b"filename", b"").decode("utf-8", "replace")
            part.file = UploadFile(file, size=0, filename=name, headers=headers)  # type: ignore[arg-type]
            self._files.append(part.file)
            return
        self._fields += 1
        if self._fields > FIELDS:
            raise Rejection("malformed", f"more than {FIELDS} form fields: send those that are known")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.file is not None:
            self._pending.append((part.file, data[start:end]))
            return
        part.text += data[start:end]
        if len(part.text) > FIELD_BYTES:
            raise Rejection("invalid", f"{part.name[:80]!r}: a form value of more than {FIELD_BYTES} bytes, and no file")

    def _on_part_end(self) -> None:
        part = self._part
        try:
            value = part.text.decode() if part.file is None else part.file
        except UnicodeDecodeError:
            raise Rejection("malformed", f"{part.name[:80]!r}: the text is not UTF-8") from None
        self._form.setdefault(part.name, []).append(value)

    def _on_end(self) -> None:
        self._ended = True


def _write_to_disk(file: Any, data: bytes) -> None:
    file.rollover()  # which does nothing the second time
    file.write(data)


@dataclass
class _Part:
    header: bytes = b""
    value: bytes = b""
    disposition: dict[bytes, bytes] = field(default_factory=dict)
    content_type: str = ""
    name: str = ""
    text: bytes = b""
    file: UploadFile | None = None
