"""The house stays one: arrows go one way, files stay small, importing changes nothing (see tests/oracle/study)."""

from __future__ import annotations

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
LONGEST = 350
"""Lines of a file that does not say in its first ten why it is longer."""


def is_long(path: Path) -> bool:
    lines = path.read_text().splitlines()
    return len(lines) > LONGEST and not any("longer than" in line for line in lines[:10])


def test_no_file_is_long_without_a_reason() -> None:
    folders = ("dynamic", "oracle", "selector", "serving", "benchmarks", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    assert [path for path in files if is_long(path)] == []


def test_nothing_imports_upward_in_circles_or_from_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of pyproject.toml, as ``lint-imports`` checks them."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0
