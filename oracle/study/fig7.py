"""Fig. 7: preferred options and context (section 4.5)."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from oracle.study.part import Part, Section, Study
from oracle.study.preferences import HEADER, option_lines, table, trend, views
from oracle.study.sets import SMALLEST_VIEW, Planner

CROPS = (50, 100, 150, 200)
"""Pixels of 256, of which the network sees 224; the paper's 250 is the whole view, which the main run has."""


def _needs(planner: Planner) -> None:
    for pixels in CROPS:
        if planner.network.info.resolution * pixels / 224 >= SMALLEST_VIEW:
            planner.add(f"crop-{pixels}", crop=pixels / 224, images=max(2 * planner.images // 5, 1))


def _compute(study: Study) -> dict[str, Any]:
    sets = study.there({str(pixels): f"crop-{pixels}" for pixels in CROPS} | {"whole view": "main"})
    return {space: views({pixels: study.of(name, space) for pixels, name in sets.items()}) for space in study.names}


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    series = {
        space: [(f"{p} px of 256" if p.isdigit() else p, f) for p, f in crops.items()] for space, crops in data.items()
    }
    scenes = " On fashion-scenes pixels are scaled to the 96 of a scene, and crops are about the object."
    notes = [
        trend(data, "crop"),
        "In the paper context acts as scale does: larger crops prefer larger strides in every layer; dilation and size do "
        "the inverse in layer A and grow with the crop in layer D.",
        "The network's view is 224 of 256 pixels, so the paper's crop of 250 is shown as the whole view."
        + (scenes if run["stand_in"] else ""),
    ]
    return Section(notes, HEADER, table(series))


def _draw(data: dict[str, Any]) -> Figure:
    """Mean preferred option of each layer by crop."""
    series = {
        space: [(224.0 if pixels == "whole view" else float(pixels), found) for pixels, found in crops.items()]
        for space, crops in data.items()
    }
    return option_lines([("crop, px of 256 (224: the whole view)", series)], logarithmic=False)


PART = Part(
    name="fig7",
    order=90,
    label="Fig. 7",
    what="preferred options and context (section 4.5)",
    needs=_needs,
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
