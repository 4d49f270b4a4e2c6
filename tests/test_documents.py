"""README and docs say what is so: links, paths, commands, options and numbers exist, and Python examples run."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import json
import re
import typing
from pathlib import Path

import pytest
import tyro

from selector.shipped import SHIPPED

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
PRESENT = [path for path in DOCUMENTS if path.name not in ("LOG.md", "CHANGELOG.md")]
"""Those that say what is, not what was."""

PACKAGES = ("dynamic", "oracle", "selector", "serving")
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def named(paths: list[Path]) -> typing.Any:
    return pytest.mark.parametrize("document", paths, ids=lambda path: path.relative_to(ROOT).as_posix())


def prose(document: Path) -> str:
    """Without fenced blocks."""
    return FENCED.sub("", document.read_text())


def commands(document: Path) -> list[tuple[str, str]]:
    """Every ``python -m MODULE ...`` with what follows in its line, or within its backticks."""
    text = document.read_text().replace("\\\n", " ")
    found = re.findall(r"python -m ([A-Za-z_]\w*(?:\.\w+)*)([^\n`#]*)", text)
    assert found or "python -m" not in text
    return found


@functools.cache
def options(module: str) -> frozenset[str]:
    """Those that a command of the project lists in its help."""
    main = importlib.import_module(module).main
    settings = typing.get_type_hints(main)[next(iter(inspect.signature(main).parameters))]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        tyro.cli(settings, args=["--help"])
    listed = re.findall(r"^\W? (--[a-z].*)", text.getvalue(), re.MULTILINE)
    return frozenset(option for line in listed for option in re.findall(r"(?:^|, )(--[a-z][\w-]*)", line))


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 130


@named(DOCUMENTS)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose(document)):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def test_every_picture_is_shown() -> None:
    said = "".join(document.read_text() for document in PRESENT)
    pictures = [path.name for path in (ROOT / "docs").glob("*.png")]
    assert pictures
    assert [name for name in pictures if name not in said] == []


@named(PRESENT)
def test_paths_exist(document: Path) -> None:
    """In backticks, from the root of the repository."""
    tops = "|".join((*PACKAGES, "tests", "benchmarks", "docs", r"\.ci", r"\.github"))
    for path in re.findall(rf"`((?:{tops})/[\w./-]*)`", prose(document)):
        assert (ROOT / path).exists(), path


@named(PRESENT)
def test_modules_that_are_run_exist(document: Path) -> None:
    for module, _ in commands(document):
        assert importlib.util.find_spec(module) is not None, module


@named(PRESENT)
def test_options_exist(document: Path) -> None:
    for module, rest in commands(document):
        given = set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest))
        if given and module.split(".")[0] in (*PACKAGES, "benchmarks"):
            assert given <= options(module), (module, given - options(module))


def test_an_unknown_option_is_found() -> None:
    assert {"--model", "--bounds-only", "--data-dir"} <= options("oracle.run")
    assert "--method-of-yesterday" not in options("oracle.run")


def examples() -> list[typing.Any]:
    """README's Python blocks, and those of the docs that are fenced as ``python run``."""
    found = []
    for document, kinds in (README, ("python", "python run")), *((path, ("python run",)) for path in DOCS):
        blocks = [code for kind, code in FENCED.findall(document.read_text()) if kind in kinds]
        found += [pytest.param(code, id=f"{document.stem}-{n}") for n, code in enumerate(blocks)]
    return found


def test_there_are_examples() -> None:
    assert {str(example.id).split("-")[0] for example in examples()} >= {"README", "RUNS", "ARCHITECTURE"}


@pytest.mark.parametrize("code", examples())
def test_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "example", "exec"), names)
    assert names.keys() > {"__name__", "__builtins__"}  # it ran to its end, and made something


def test_every_room_is_on_the_map() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    rooms = [path.parent for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")]
    assert len(rooms) >= 12
    for room in rooms:
        assert f"`{room.relative_to(ROOT).as_posix()}/`" in text, room


def test_readme_has_the_numbers_of_the_study() -> None:
    """The main table's accuracies, intervals and paper's column against Table 1 of the generated docs/study.md."""
    study = (ROOT / "docs" / "study.md").read_text()
    table = README.read_text().split("paper\n-----")[1].split("```")[0]
    spaces = re.split(r"\n(?=\w)", table)[1:]
    assert [space.split()[0] for space in spaces] == ["stride", "dilation", "size"]
    for space in spaces:
        cases = [line[24:] for line in space.splitlines()[:4]]
        ours = [
            "{} [{}, {}]".format(*match.groups())
            for case in cases
            if (match := re.search(r"([\d.]+)% +([\d.]+)% – ([\d.]+)%", case))
        ]
        paper = [case.split()[-1].removesuffix("%") for case in cases]
        assert f"| resnet50-slim | {space[:24].strip()} | {' | '.join(ours)} | {' / '.join(paper)} |" in study


def test_readme_has_the_closed_gaps_that_the_shipped_runs_have() -> None:
    section = README.read_text().split("## Selectors")[1].split("## ")[0]
    results = [json.loads((folder / "benchmark" / "results.json").read_text()) for folder in SHIPPED.values()]
    said = " ".join(verdict for result in results for verdict in result["verdicts"])
    found = re.findall(r"([\d.]+) %\s(\[[\d., -]+\])", section)
    assert len(found) == 2
    for share, interval in found:
        assert f"closes {share}% {interval} of the gap" in said


def test_checks_before_a_commit_are_those_before_landing() -> None:
    landing = (ROOT / ".ci" / "run").read_text()
    entries = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(entries) == 4
    for entry in entries:
        assert f".venv/bin/{entry}" in landing
    assert "run: bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
