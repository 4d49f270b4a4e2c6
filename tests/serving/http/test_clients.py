from __future__ import annotations

import hmac
from contextlib import suppress

import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from serving.errors import Rejection
from serving.http import clients
from serving.http.clients import Keys

KEYS = Keys([SecretStr("client-key-of-16"), SecretStr("another-key-of-16")], [SecretStr("operator-key-of-16")])


@pytest.mark.parametrize(
    ("headers", "known", "operator"),
    [
        ({"X-API-Key": "client-key-of-16"}, True, False),
        ({"Authorization": "Bearer another-key-of-16"}, True, False),
        ({"Authorization": "bearer  operator-key-of-16"}, True, True),
        ({"Authorization": "Basic client-key-of-16"}, False, False),
        ({}, False, False),
    ],
)
def test_a_key_tells_who_comes(headers: dict[str, str], known: bool, operator: bool) -> None:
    client = KEYS.client(Headers(headers), "10.0.0.1")
    assert (client.known, client.operator) == (known, operator)
    assert "of-16" not in client.name
    assert client.name.startswith("key:" if known else "10.0.0.1")


def test_a_key_is_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Rejection) as refused:
        KEYS.client(Headers({"X-API-Key": "client-key-of-17"}), "10.0.0.1")
    assert refused.value.status == 401
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(clients.hmac, "compare_digest", lambda a, b: compared.append(b) or compare(a, b))
    for key in ("client-key-of-17", "client-key-of-16"):
        compared.clear()
        with suppress(Rejection):
            assert KEYS.client(Headers({"X-API-Key": key}), "10.0.0.1").known
        assert len(compared) == 3


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("", "unknown"),
        ("/run/socket", "/run/socket"),
    ],
)
def test_an_address_names_a_household(address: str, name: str) -> None:
    assert Keys([], []).client(Headers({"X-API-Key": "whatever"}), address).name == name
