from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
import warnings
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

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


def run_here(*arguments: object, module: str = "oracle.run") -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported already what a new one would import for seconds."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with ExitStack() as undone:
        undone.enter_context(patch("sys.argv", [module, *map(str, arguments)]))
        undone.enter_context(patch("dynamic.command.keep_freed_memory"))  # the allocator stays as it is
        undone.enter_context(redirect_stdout(out))
        undone.enter_context(redirect_stderr(err))
        undone.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*found in sys.modules")
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return subprocess.CompletedProcess(list(map(str, arguments)), code, out.getvalue(), err.getvalue())


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
