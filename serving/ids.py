"""Ids of requests: what a label will name."""

from __future__ import annotations

import secrets
import time


def new_id() -> str:
    """A new request id: the moment in milliseconds since 1970 and 64 random bits, hexadecimal.

    >>> len(new_id())
    27
    """
    return f"{int(time.time() * 1000):011x}{secrets.token_hex(8)}"
