from __future__ import annotations

import pytest

from dynamic.errors import UserError
from serving.settings import read_settings


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("SERVING_MAX_BATCH", "0", "SERVING_MAX_BATCH='0': input should be greater than or equal to 1"),
        ("SERVING_WORKERS", "many", "SERVING_WORKERS='many': input should be a valid integer"),
        ("SERVING_KEEP", "perhaps", "'never', 'asked' or 'all'"),
        ("SERVING_OBJECTIVE", "speed", "'accuracy', 'default_cost' or 'efficiency'"),
        ("SERVING_MAX_BACH", "8", "SERVING_MAX_BACH is not a setting: did you mean SERVING_MAX_BATCH?"),
        ("SERVING_MAX_QUEUE", "8", "SERVING_MAX_QUEUE=8 must be at least SERVING_MAX_IMAGES="),
        ("SERVING_PORT", "3000", "SERVING_PORT is not a setting"),
        ("SERVING_SERVICE_HOSTS", "10.0.0.1", "SERVING_SERVICE_HOSTS is not a setting"),
        ("SERVING_CORS_ORIGINS", "app.example.org", "'app.example.org' is no origin"),
        ("SERVING_PRIVATE_PATHS", "/metrics", "SERVING_PRIVATE_PATHS needs SERVING_OPERATOR_KEYS"),
        ("SERVING_DEVICE", "abacus", "SERVING_DEVICE=abacus cannot be used"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="wrong settings") as wrong:
        read_settings()
    assert named in str(wrong.value)


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_MAX_BATCH", "0")
    monkeypatch.setenv("SERVING_MAX_QUEUE", "-1")
    with pytest.raises(UserError, match=r"MAX_BATCH.*MAX_QUEUE"):
        read_settings()


def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SERVING_PORT": "tcp://10.0.0.1:3000",
        "SERVING_SERVICE_HOST": "10.0.0.1",
        "SERVING_SERVICE_PORT": "3000",
        "SERVING_SERVICE_PORT_HTTP": "3000",
        "SERVING_PORT_3000_TCP": "tcp://10.0.0.1:3000",
        "SERVING_PORT_3000_TCP_PROTO": "tcp",
        "SERVING_PORT_3000_TCP_PORT": "3000",
        "SERVING_PORT_3000_TCP_ADDR": "10.0.0.1",
        "SERVING_POSTGRES_SERVICE_HOST": "10.0.0.2",
        "SERVING_POSTGRES_PORT": "tcp://10.0.0.2:5432",
    }.items():
        monkeypatch.setenv(name, value)
    assert read_settings().max_queue == 512


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_API_KEYS", "a-key-of-16-characters, short-one")
    with pytest.raises(UserError, match="SERVING_API_KEYS has a key under 16 characters") as wrong:
        read_settings()
    assert "short-one" not in str(wrong.value)
    monkeypatch.setenv("SERVING_API_KEYS", "a-key-of-16-characters")
    settings = read_settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["a-key-of-16-characters"]
    assert "a-key" not in repr(settings)
