from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.server
def test_the_server_stops_at_once_and_says_why(tmp_path: Path) -> None:
    environment = os.environ | {"SERVING_WORKERS": "0", "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "SERVING_WORKERS='0': input should be greater than or equal to 1" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_bento_asks_for_what_a_compiled_run_needs_in_the_projects_own_versions() -> None:
    root = Path(__file__).parents[2]
    lines = (root / "serving" / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(listed) <= {*project["dependencies"], *project["optional-dependencies"]["postgresql"]}
    assert set(project["optional-dependencies"]["postgresql"]) <= set(listed), "several pods need it"
    assert not {"torch", "torchvision", "lightgbm", "pandas"} & {line.partition(">=")[0] for line in listed}
    assert "./serving/requirements.txt" in (root / "bentofile.yaml").read_text()


def test_an_app_is_made_whatever_the_environment_says() -> None:
    """Settings are read where the server begins, not where a module is imported."""
    make = "create_app(ServingSettings(network='matched', database='none'))"
    code = f"from serving.app import create_app; from serving.settings import ServingSettings; {make}"
    environment = os.environ | {"SERVING_WORKERS": "0", "SERVING_NOTHING": "x"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def _private(tree: ast.AST) -> Iterator[str]:
    """Private names of libraries that a module takes."""
    libraries: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if modules[0].split(".")[0] not in ("dynamic", "oracle", "selector", "serving"):
                libraries |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
                parts = [part for name in (*modules, *(alias.name for alias in node.names)) for part in name.split(".")]
                yield from (part for part in parts if part.startswith("_") and not part.startswith("__"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            name = ast.unparse(node)
            if name.split(".")[0] in libraries and name != "os._exit":
                yield name


def test_no_private_name_of_a_library_is_used() -> None:
    assert sorted(_private(ast.parse("import a.b\nfrom c import d, _e\na.b._f()\nd._g\nh._i"))) == ["_e", "a.b._f", "d._g"]
    for path in (Path(__file__).parents[2] / "serving").rglob("*.py"):
        assert list(_private(ast.parse(path.read_text()))) == [], path
