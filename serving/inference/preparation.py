"""From a request's uploads to what the network reads: headers first, then pixels; all but small ones in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
from starlette.datastructures import UploadFile

from serving.errors import Rejection
from serving.inference.decoding import COST, check_header, decode, no_memory, open_picture
from serving.inference.headers import Header, read_header
from serving.operation import logs

_DECODERS = 2
"""Threads."""
_PART = 8
"""Pictures of a request that one thread decodes in a row."""
_REQUEST = 10
"""How many times the pixels of one picture all pictures of a request may have together: twenty of twelve megapixels, as many
as a body of 32 MiB holds."""
_SCANS = 4
"""How many times what decoding one picture may cost all pictures of a request may together."""
_SMALL = 100_000
"""Pixels of all pictures of a request that are decoded in a millisecond or so."""
_SMALL_BYTES = 64 * 1024
"""Of all files of a request whose headers are read in a few milliseconds, if nothing in them has to be unpacked."""
_PACKED = (b"zTXt", b"iTXt", b"iCCP")
"""Chunks of a PNG that unpack to a thousand times their size."""

Upload = UploadFile | PIL.Image.Image
"""A file that came over HTTP, or a picture given in Python."""


class Preparation:
    """Decodes the pictures of requests and transforms them; made in the event loop that it is used in.

    Args:
        transform: picture to normalised (channels, H, W) float32.
        max_megapixels: that one picture may have as stored.
        max_decoded_megapixels: that one may have as the decoder makes it.
    """

    def __init__(
        self, transform: Callable[[PIL.Image.Image], np.ndarray], max_megapixels: float, max_decoded_megapixels: float
    ) -> None:
        self._transform, self._max_megapixels, self._max_decoded = transform, max_megapixels, max_decoded_megapixels
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder")
        # Requests that cost more than the largest picture wait for each other, and nobody else for them.
        self._costly = ThreadPoolExecutor(1, "costly")
        self._pending = 0

    @property
    def pending(self) -> int:
        """How many pictures are being prepared."""
        return self._pending

    async def prepare(self, uploads: Sequence[Upload]) -> list[np.ndarray | Rejection]:
        """Decode and transform the pictures of one request.

        Returns:
            For each picture (channels, H, W) float32, or why it is refused.

        Raises:
            Rejection: the pictures have too many pixels together.
        """
        self._pending += len(uploads)
        try:
            return await self._prepare(uploads)
        finally:
            self._pending -= len(uploads)

    async def _prepare(self, uploads: Sequence[Upload]) -> list[np.ndarray | Rejection]:
        loop = asyncio.get_running_loop()
        files = [upload for upload in uploads if isinstance(upload, UploadFile)]
        small = sum(file.size or 0 for file in files) <= _SMALL_BYTES and not any(map(_unpacks, files))
        if small:
            headers = self._headers(uploads)
        else:
            headers = await loop.run_in_executor(self._decoders, self._headers, uploads)
        pixels = sum(0 if isinstance(header, Rejection) else header.decoded_pixels for header in headers)
        cost = sum(0 if isinstance(header, Rejection) else header.cost for header in headers)
        largest = self._max_decoded * 1e6
        if pixels > _REQUEST * largest:
            message = f"the pictures have more than {_REQUEST * largest / 1e6:g} megapixels together: send fewer at a time"
            raise Rejection("too_large", message)
        if cost > _SCANS * COST * largest:
            raise Rejection("too_large", "the pictures have too many scans together: send fewer at a time, or plain JPEG")
        if small and pixels <= _SMALL and cost <= COST * _SMALL:  # quicker than handing them to a thread
            return self._arrays(uploads, headers)
        threads = self._costly if max(pixels, cost) > largest else self._decoders
        parts = [slice(at, at + _PART) for at in range(0, len(uploads), _PART)]
        made = await asyncio.gather(
            *(loop.run_in_executor(threads, self._arrays, uploads[part], headers[part]) for part in parts)
        )
        return [prepared for part in made for prepared in part]

    def _headers(self, uploads: Sequence[Upload]) -> list[Header | Rejection]:
        return [self._header(upload) for upload in uploads]

    def _header(self, upload: Upload) -> Header | Rejection:
        if not isinstance(upload, UploadFile):
            return Header(format="PNG", width=upload.width, height=upload.height)
        try:
            header = read_header(upload.file)
            check_header(header, self._max_megapixels, self._max_decoded)
        except Rejection as rejection:
            return rejection.with_traceback(None)  # which would hold the file's bytes
        except MemoryError:
            return no_memory()
        return header

    def _arrays(self, uploads: Sequence[Upload], headers: Sequence[Header | Rejection]) -> list[np.ndarray | Rejection]:
        """Of each picture; one at a time is opened and decoded, and held no longer than it takes."""
        return [
            header if isinstance(header, Rejection) else self._array(upload)
            for upload, header in zip(uploads, headers, strict=True)
        ]

    def _array(self, upload: Upload) -> np.ndarray | Rejection:
        try:
            if isinstance(upload, UploadFile):
                return self._transform(decode(open_picture(upload.file, self._max_megapixels, self._max_decoded)))
            return self._transform(decode(upload))
        except Rejection as rejection:
            return rejection.with_traceback(None)  # which would hold the picture
        except MemoryError:
            return no_memory()
        except Exception:
            if not (isinstance(upload, UploadFile) and upload.file.closed):  # its client has gone
                logs.LOGGER.exception("a picture could not be prepared")
            return Rejection("bad_image", "the picture cannot be prepared")

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown()
        self._costly.shutdown()


def _unpacks(upload: UploadFile) -> bool:
    """Whether a small file may hold texts or a colour profile that have to be unpacked."""
    content = upload.file.read()
    upload.file.seek(0)
    return any(mark in content for mark in _PACKED)
