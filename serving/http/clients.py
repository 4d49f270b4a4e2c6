"""Who asks, and whether they may: keys of clients and operators, addresses of the rest."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.datastructures import Headers

from serving.errors import Rejection


@dataclass(frozen=True, kw_only=True)
class Client:
    """Who sent a request.

    Attributes:
        name: the first digits of its key's SHA-256 behind ``key:``, else its address; fit for logs.
        known: whether it gave a key that is known.
        operator: whether that is an operator's.
    """

    name: str
    known: bool = False
    operator: bool = False


class Keys:
    """The keys that are known, as digests.

    Args:
        clients: theirs.
        operators: theirs.

    >>> keys = Keys([SecretStr("a-key-of-16-characters")], [])
    >>> keys.client(Headers({"x-api-key": "a-key-of-16-characters"}), "10.0.0.1")
    Client(name='key:0d4a7968', known=True, operator=False)
    """

    def __init__(self, clients: Sequence[SecretStr], operators: Sequence[SecretStr]) -> None:
        self._clients = [_digest(key.get_secret_value()) for key in clients]
        self._operators = [_digest(key.get_secret_value()) for key in operators]

    @property
    def needed(self) -> bool:
        """Whether clients need one."""
        return bool(self._clients)

    def client(self, headers: Headers, address: str) -> Client:
        """Who sends these headers.

        Raises:
            Rejection: it gives a key that is not known, where any is.
        """
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (given.strip() if scheme.lower() == "bearer" else "")
        if not given or not (self._clients or self._operators):
            return Client(name=_network(address))
        digest = _digest(given)
        # Every key is compared, so that the time says nothing of which one was nearly right.
        client = sum(hmac.compare_digest(digest, known) for known in self._clients)
        operator = sum(hmac.compare_digest(digest, known) for known in self._operators)
        if not client and not operator:
            raise Rejection("unauthorized", "the key is not known")
        return Client(name=f"key:{digest.hex()[:8]}", known=True, operator=bool(operator))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _network(address: str) -> str:
    """An address, of IPv6 the network of a household: it has 2^64 addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:60] or "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return str(found)
