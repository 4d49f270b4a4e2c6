"""Examples of documents, as files and commands."""

from __future__ import annotations

import re
from pathlib import Path

EXTENDING = Path(__file__).parents[1] / "docs" / "EXTENDING.md"

_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def sections(page: Path) -> dict[str, str]:
    """Text below each heading of the second level."""
    _, *parts = re.split(r"^## (.*)\n", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def files(text: str) -> dict[str, str]:
    """Content by name of every fenced block that names its file behind its language."""
    return {info.split()[1]: code for info, code in _FENCED.findall(text) if re.fullmatch(r"\w+ [\w.-]+\.\w+", info)}


def commands(text: str) -> list[str]:
    """Lines of fenced blocks without a language."""
    return [line for info, code in _FENCED.findall(text) if not info for line in code.splitlines() if line.strip()]


def rotation(folder: Path, *changes: tuple[str, str]) -> Path:
    """The page's attribute, in a file of ``folder``."""
    code = files(EXTENDING.read_text())["rotation.py"]
    for before, after in changes:
        assert before in code
        code = code.replace(before, after)
    path = folder / "rotation.py"
    path.write_text(code)
    return path
