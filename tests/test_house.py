"""The house stays one: arrows go one way, files stay small, importing changes nothing (see tests/oracle/study)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from importlinter.cli import lint_imports
from setuptools import Distribution

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


def test_a_wheel_has_shipped_runs_without_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shipped = tmp_path / "selector" / "assets" / "matched"
    graphs = [shipped / "compiled" / place / "000.onnx" for place in ("float32", "static/float32")]
    for path in (shipped / "run.json", shipped / "policies" / "cascade" / "policy.json", *graphs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    made = Distribution()
    made.parse_config_files()
    command = made.get_command_obj("build_py")
    command.ensure_finalized()
    command.manifest_files = {}
    found = command.find_data_files("selector", "selector")
    assert sorted(Path(path).name for path in found) == ["policy.json", "run.json"]
