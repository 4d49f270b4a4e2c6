from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.live.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(f"sqlite:///{tmp_path}/deep/down/serving.db")
    yield found
    found.close()
