"""What the study's figures share: colours, error bars."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracle.reporting.figures import BLUE, GREY, RED

LAYER_COLOURS = ("#1b4f8a", "#2e9c8f", "#e0a030", "#c0392b", "#7d3c98", "#555555")
METHOD_COLOURS = {
    "pre-trained": GREY,
    "recalibrated": BLUE,
    "fine-tuned": "#e0a030",
    "fine-tuned, recalibrated": RED,
    "distilled, recalibrated": "#2e9c8f",
}


def with_errors(entries: list[dict[str, Any]], *, percent: bool = True) -> tuple[list[float], np.ndarray]:
    """Values and the distances to their intervals' ends, (2, n)."""
    scale = 100 if percent else 1
    values = [scale * entry["value"] for entry in entries]
    ends = [entry["interval"] or [entry["value"]] * 2 for entry in entries]
    below = [max(entry["value"] - low, 0) * scale for entry, (low, _) in zip(entries, ends, strict=True)]
    above = [max(high - entry["value"], 0) * scale for entry, (_, high) in zip(entries, ends, strict=True)]
    return values, np.array([below, above])
