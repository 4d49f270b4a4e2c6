from __future__ import annotations

import asyncio
import io
import logging

import numpy as np
from starlette.datastructures import UploadFile

from serving.errors import Rejection
from serving.inference.preparation import Preparation


def test_a_client_that_goes_while_its_picture_is_decoded_is_no_bug_in_the_log(heard: list[logging.LogRecord]) -> None:
    async def main() -> None:
        preparation = Preparation(lambda picture: np.zeros(1), 25, 25)
        upload = UploadFile(io.BytesIO(b"x"), size=1)
        upload.file.close()
        assert isinstance(preparation._array(upload), Rejection)
        preparation.close()

    asyncio.run(main())
    assert heard == []
