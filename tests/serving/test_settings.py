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
