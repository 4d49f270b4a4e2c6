from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL_SPACE = {"stride": [[1], [2], [2], [2, 1, 0.5]], "dilation": [[1], [1], [1, 2], [1]]}
"""Six configurations of a ResNet, the default among them."""


@pytest.fixture
def small_space(tmp_path: Path) -> str:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL_SPACE))
    return str(path)


def command(*arguments: object, module: str = "oracle.run") -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run_command(*arguments: object, module: str = "oracle.run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, module=module), capture_output=True, text=True, env=environment(), timeout=1800
    )


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
