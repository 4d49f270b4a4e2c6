"""Which set holds the scenes with the most different object sizes."""

from __future__ import annotations

from oracle.study.part import Study


def widest(study: Study) -> str | None:
    """The set in the wide regime of fashion-scenes; None on other images."""
    if study.settings.dataset != "fashion-scenes":
        return None
    return "main" if study.settings.regime == "wide" else "wide"
