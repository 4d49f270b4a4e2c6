"""Finds the study's parts: every module of this package that defines ``PART``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import oracle.study
from dynamic.errors import UserError
from oracle.reporting.text import markdown_table
from oracle.study.part import Part, Section


def parts() -> dict[str, Part]:
    """All tables and figures by name, in the order in which they are shown."""
    modules = (
        importlib.import_module(f"oracle.study.{found.name}") for found in pkgutil.iter_modules(oracle.study.__path__)
    )
    found = sorted((module.PART for module in modules if hasattr(module, "PART")), key=lambda part: (part.order, part.name))
    return {part.name: part for part in found}


def parse_parts(names: str) -> list[str]:
    """``all`` or comma-separated parts, in the paper's order. Raises UserError for an unknown one."""
    known = parts()
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if not asked or any(name not in known and name != "all" for name in asked):
        listed = "; ".join(f"{name}: {part.what}" for name, part in known.items())
        raise UserError(f"--study {names!r}: choose all, or from {listed}")
    return [name for name in known if name in asked or "all" in asked]


def sections(study: dict[str, Any], run: dict[str, Any]) -> dict[Part, Section]:
    """Text and table of every part of a study, in order.

    Args:
        study: what :func:`oracle.study.runner.run_study` returned.
        run: facts about the main run.
    """
    return {part: part.describe(study[name], run) for name, part in parts().items() if study.get(name)}


def markdown(written: dict[Part, Section], left_out: dict[str, str]) -> str:
    """All sections as Markdown, for papers and pull requests."""
    lines = [f"Left out: {name} ({reason})." for name, reason in left_out.items()]
    for part, section in written.items():
        lines += [f"## {part.title}", *filter(None, section.notes)]
        if section.rows:
            lines.append(markdown_table(section.header, section.rows))
    return "\n\n".join(lines) + "\n"
