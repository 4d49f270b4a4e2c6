"""The runs with policies that the package ships."""

from __future__ import annotations

from pathlib import Path

SHIPPED = {name: Path(__file__).parent / "assets" / name for name in ("wide", "matched")}
"""By name."""
