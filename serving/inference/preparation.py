"""From a request's uploads to what the network reads: headers first, then pixels, the large ones in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import PIL.Image
from starlette.datastructures import UploadFile

from serving.errors import Rejection
from serving.inference.decoding import decode, open_picture, webp_pixels
from serving.operation import logs

_DECODERS = 2
"""Threads."""
_PART = 8
"""Pictures of a request that one thread decodes in a row."""
_REQUEST = 4
"""How many times the pixels of one picture all pictures of a request may have together."""
_SMALL = 100_000
"""Pixels of all pictures of a request that are decoded in a millisecond or so."""
_TAKEN = Rejection("internal", "")
"""Stands in a list for a picture that was taken out of it."""

Upload = UploadFile | PIL.Image.Image
"""A file that came over HTTP, or a picture given in Python."""


class Preparation:
    """Decodes the pictures of requests and transforms them; made in the event loop that it is used in.

    Args:
        transform: picture to normalised (channels, H, W) float32.
        max_megapixels: that one picture may have.
    """

    def __init__(self, transform: Callable[[PIL.Image.Image], np.ndarray], max_megapixels: float) -> None:
        self._transform, self._max_megapixels = transform, max_megapixels
        self._canvases = asyncio.Semaphore(_DECODERS)
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder")
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
        # Opening a WebP allocates its canvas, unlike other formats: few requests may hold large ones at a time.
        heavy = any(isinstance(upload, UploadFile) and webp_pixels(upload.file) > _SMALL for upload in uploads)
        try:
            async with self._canvases if heavy else nullcontext():
                return await self._prepare(uploads)
        finally:
            self._pending -= len(uploads)

    async def _prepare(self, uploads: Sequence[Upload]) -> list[np.ndarray | Rejection]:
        opened: list[PIL.Image.Image | Rejection] = []
        pixels = 0
        for upload in uploads:
            opened.append(_open(upload, self._max_megapixels))
            pixels += _pixels_of(opened[-1])
            if pixels > _REQUEST * self._max_megapixels * 1e6:
                message = f"the pictures have more than {_REQUEST * self._max_megapixels:g} megapixels together"
                raise Rejection("too_large", message)
        if pixels <= _SMALL:  # quicker than handing them to a thread
            return self._arrays(opened)
        loop = asyncio.get_running_loop()
        parts = [opened[at : at + _PART] for at in range(0, len(opened), _PART)]
        opened.clear()
        made = await asyncio.gather(*(loop.run_in_executor(self._decoders, self._arrays, part) for part in parts))
        return [prepared for part in made for prepared in part]

    def _arrays(self, opened: list[PIL.Image.Image | Rejection]) -> list[np.ndarray | Rejection]:
        """Of each picture; ``opened`` is emptied, since a decoded picture is held no longer than it takes."""
        made = []
        for position, picture in enumerate(opened):
            opened[position] = _TAKEN
            made.append(picture if isinstance(picture, Rejection) else self._array(picture))
            del picture
        return made

    def _array(self, picture: PIL.Image.Image) -> np.ndarray | Rejection:
        try:
            return self._transform(decode(picture))
        except Rejection as rejection:
            return rejection.with_traceback(None)
        except Exception:
            logs.LOGGER.exception("a picture could not be prepared")
            return Rejection("bad_image", "the picture cannot be prepared")

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown()


def _open(upload: Upload, max_megapixels: float) -> PIL.Image.Image | Rejection:
    if not isinstance(upload, UploadFile):
        return upload
    try:
        return open_picture(upload.file, max_megapixels)
    except Rejection as rejection:
        return rejection.with_traceback(None)  # which would hold the picture


def _pixels_of(picture: PIL.Image.Image | Rejection) -> int:
    return 0 if isinstance(picture, Rejection) else picture.width * picture.height
