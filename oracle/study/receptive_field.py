"""Receptive field and its growth as explanations of which configurations do well (section 4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dynamic.receptive_field import receptive_fields
from oracle.evaluation import bounds
from oracle.reporting.figures import grid_of_axes
from oracle.reporting.text import number
from oracle.study.drawing import LAYER_COLOURS, with_errors
from oracle.study.outcomes import SpaceOutcomes
from oracle.study.part import Part, Section, Study
from oracle.study.regimes import widest
from oracle.study.sentences import tell


def receptive_field_correlations(outcomes: SpaceOutcomes, curve: np.ndarray, resamples: int = 200) -> dict[str, Any]:
    """How well the receptive field explains which configurations do well (section 4.5).

    Scalar: distance of a configuration's final receptive field from the default's (logarithms). Growth: distance of the
    whole curve of receptive fields behind layers A, B, C, D. Both are ranked against the configurations' mean quality;
    where true sides are known, the preferred configuration's receptive field behind each layer also against them.

    Args:
        outcomes: of one space.
        curve: (configurations, layers) receptive field behind each layer's stage, in input pixels.
        resamples: bootstrap samples of images.
    """
    logs = np.log2(curve)
    distance = logs - logs[outcomes.default]
    predictors = {
        "scalar": -np.abs(distance[:, -1]),
        "growth": -np.linalg.norm(distance, axis=1),
    }
    stream = np.random.default_rng(0)
    images = len(outcomes.quality)
    draws = [outcomes.quality.mean(axis=0)]
    draws += [outcomes.quality[stream.integers(images, size=images)].mean(axis=0) for _ in range(resamples)]
    result: dict[str, Any] = {
        "configurations": {
            name: _correlations([_spearman(values, scores) for scores in draws]) for name, values in predictors.items()
        }
    }
    result["configurations"]["growth_minus_scalar"] = _correlations(
        [_spearman(predictors["growth"], scores) - _spearman(predictors["scalar"], scores) for scores in draws]
    )
    if outcomes.sides is not None:
        solvable = outcomes.correct.any(axis=1)
        chosen = bounds.preferred(outcomes.quality, outcomes.macs)[solvable]
        sides = outcomes.sides[solvable]
        result["sides"] = {}
        for layer in range(logs.shape[1]):
            preferred = logs[chosen, layer]
            rows = [np.arange(len(sides))] + [stream.integers(len(sides), size=len(sides)) for _ in range(resamples)]
            found = _correlations([_spearman(preferred[r], sides[r]) for r in rows])
            if found["value"] is not None:
                found["p"] = float(_ranked(preferred, sides).pvalue)
            result["sides"]["ABCDEF"[layer]] = found
    return result


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")  # a constant has no ranks
    return float(_ranked(first, second).statistic)


def _ranked(first: np.ndarray, second: np.ndarray) -> Any:
    from scipy.stats import spearmanr  # takes longer to import than some commands to run

    return spearmanr(first, second)


def _correlations(values: Sequence[float]) -> dict[str, Any]:
    """The first value with the interval of the others, and twice the share of them on the other side of zero."""
    if not np.isfinite(values).all():
        return {"value": None if not np.isfinite(values[0]) else values[0], "interval": None}
    low, high = np.percentile(values[1:], [2.5, 97.5])
    beyond = min(np.sum(np.array(values[1:]) <= 0), np.sum(np.array(values[1:]) >= 0))
    p = min(1.0, 2 * (int(beyond) + 1) / len(values))
    return {"value": values[0], "interval": [float(low), float(high)], "p": p}


def _compute(study: Study) -> dict[str, Any]:
    wide = widest(study)
    name = wide if wide is not None and wide in study.outcomes else "main"
    result = {}
    for space in study.names:
        outcomes = study.of(name, space)
        curve = np.array([receptive_fields(study.network, c) for c in outcomes.space])
        correlations = receptive_field_correlations(outcomes, curve)
        result[space] = correlations | {"default_curve": curve[outcomes.default].tolist(), "set": name}
    return result


def explanations(data: dict[str, Any]) -> list[str]:
    """What growth explains beyond the scalar, and what the objects' sides explain of the choice."""
    better = {space: found["configurations"]["growth_minus_scalar"] for space, found in data.items()}
    better = {space: difference for space, difference in better.items() if difference["interval"]}
    notes = [
        tell(
            "Growth, against the scalar,",
            better,
            up="explains more",
            down="explains less",
        )
        + " In the paper growth explains more than the scalar."
    ]
    sides = {
        f"{space} {layer}": value
        for space, found in data.items()
        for layer, value in found.get("sides", {}).items()
        if value["interval"]
    }
    if sides:
        sentence = tell(
            "The preferred receptive field behind a layer",
            sides,
            up="grows with the object's true side",
            down="shrinks with the object's true side",
            how="rank correlation over the solvable images",
        )
        notes.append(f"The last columns correlate the two. {sentence}")
    return notes


def _describe(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    sides = any("sides" in found for found in data.values())
    for space, found in data.items():
        c = found["configurations"]
        behind = [number(value) for value in found["sides"].values()] if "sides" in found else []
        rows.append([space, number(c["scalar"]), number(c["growth"]), number(c["growth_minus_scalar"]), *behind])
    notes = [
        "Spearman's rank correlation of a configuration's mean quality with how near its receptive field is to the "
        "default's: the final one alone (scalar), or the curve behind all layers (growth), in logarithms; computed from the "
        "traced graph.",
        *explanations(data),
    ]
    layers = list(next(iter(data.values()))["sides"]) if sides else []
    header = ["space", "scalar", "growth", "difference", *(f"side ~ behind {layer}" for layer in layers)]
    return Section(notes, header, rows)


def _draw(data: dict[str, Any]) -> Figure:
    """Rank correlations of preference with the receptive field."""
    with_sides = any("sides" in found for found in data.values())
    figure, all_axes = grid_of_axes(1, 1 + with_sides, 4.4 * (1 + with_sides), 3)
    panels = [("configurations", ("scalar", "growth"), "quality of a configuration ~ closeness to default")]
    if with_sides:
        layers = tuple(next(iter(data.values()))["sides"])
        panels.append(("sides", layers, "preferred receptive field behind a layer ~ object side"))
    for axes, (key, names, title) in zip(all_axes[0], panels, strict=True):
        for position, found in enumerate(data.values()):
            for i, name in enumerate(names):
                value = found[key][name]
                if value["value"] is None:
                    continue
                (height,), errors = with_errors([value], percent=False)
                x = position + (i - (len(names) - 1) / 2) * 0.8 / len(names)
                axes.bar(x, height, 0.7 / len(names), color=LAYER_COLOURS[i])
                axes.errorbar(x, height, errors, color="black", elinewidth=0.9)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xticks(range(len(data)), list(data))
        axes.set_title(title, fontsize=9)
        handles = [Patch(color=LAYER_COLOURS[i], label=name) for i, name in enumerate(names)]
        axes.margins(y=0.2)
        axes.legend(handles=handles, frameon=False, fontsize=8, ncols=len(names), loc="upper right")
    all_axes[0][0].set_ylabel("Spearman's rank correlation")
    return figure


PART = Part(
    name="receptive_field",
    order=100,
    label="Receptive field",
    what="receptive field and its growth as explanations (section 4.5)",
    needs=lambda planner: planner.add_other_regime(),
    compute=_compute,
    describe=_describe,
    draw=_draw,
)
