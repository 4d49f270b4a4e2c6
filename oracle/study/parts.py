"""The parts of the study: each table's and figure's numbers from the sets of outcomes that were evaluated.

The numbers themselves are computed in :mod:`oracle.study.statistics`; here is which sets and spaces they are computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from dynamic.configuration import Configuration, Space
from dynamic.models import LoadedNetwork
from dynamic.receptive_field import receptive_fields
from oracle.evaluation.collect import Collection
from oracle.settings import RunSettings
from oracle.study import statistics as experiments
from oracle.study.plan import CROPS, RESIZES, sibling_models
from oracle.study.statistics import SpaceOutcomes


@dataclass
class Study:
    """A study in progress.

    Attributes:
        settings: of the main run.
        network: of the main run.
        parts: that were asked for.
        outcomes, spaces, defaults: by set, once it has been evaluated.
        opened, seconds: by set, all that is to be evaluated and how long that will take.
        left_out: why sets are not there.
    """

    settings: RunSettings
    network: LoadedNetwork
    parts: list[str]
    outcomes: dict[str, xr.Dataset] = field(default_factory=dict)
    spaces: dict[str, list[Space]] = field(default_factory=dict)
    defaults: dict[str, Configuration] = field(default_factory=dict)
    opened: dict[str, Collection] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def of(self, name: str, space: str, split: str = "test") -> SpaceOutcomes:
        """One space of one set."""
        found = next(s for s in self.spaces[name] if s.name == space)
        return SpaceOutcomes.of(self.outcomes[name], found, self.defaults[name], split)

    @property
    def names(self) -> list[str]:
        """Of the main run's spaces."""
        return [space.name for space in self.spaces["main"]]


def _table1(study: Study) -> dict[str, Any]:
    sets = {study.settings.model: "main"}
    siblings = {model: f"architecture-{model}" for model in sibling_models(study.settings)}
    sets |= {model: name for model, name in siblings.items() if name in study.outcomes}
    return {
        model: {space: experiments.cases(study.of(name, space)) for space in study.names} for model, name in sets.items()
    }


def _tuned_sets(study: Study, space: str, methods: Sequence[str]) -> dict[str, str]:
    """The sets of one space by how the network was treated."""
    sets = {"pre-trained": "main", "recalibrated": "recalibrated"}
    sets |= {"fine-tuned": f"rof-{space}", "fine-tuned, recalibrated": f"rof-recalibrated-{space}"}
    return {method: name for method, name in sets.items() if method in methods and name in study.outcomes}


def _table2(study: Study) -> dict[str, Any]:
    methods = ("pre-trained", "recalibrated", "fine-tuned", "fine-tuned, recalibrated")
    result: dict[str, Any] = {}
    for space in study.names:
        before = study.of("main", space)
        result[space] = {}
        for method, name in _tuned_sets(study, space, methods).items():
            after = study.of(name, space)
            result[space][method] = experiments.cases(after) | {"gain": experiments.gains(before, after)}
    cheap = _efficiency(study)
    if "pre-trained" in cheap:
        gains = {method: {"gain": experiments.gains(cheap["pre-trained"], after)} for method, after in cheap.items()}
        result[cheap["pre-trained"].space.name] = {m: experiments.cases(after) | gains[m] for m, after in cheap.items()}
    return result


def _before_after(study: Study, compute: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    methods = ("pre-trained", "fine-tuned")
    return {
        space: {method: compute(name, space) for method, name in _tuned_sets(study, space, methods).items()}
        for space in study.names
    }


def _fig2(study: Study) -> dict[str, Any]:
    return _before_after(study, lambda name, space: experiments.agreement(study.of(name, space)))


def _fig3(study: Study) -> dict[str, Any]:
    return _before_after(
        study, lambda name, space: experiments.portfolio(study.of(name, space, "label"), study.of(name, space))
    )


def _table3(study: Study) -> dict[str, Any]:
    single = {space: experiments.cases(study.of("main", space)) for space in study.names}
    if "combined" not in study.outcomes:
        return {"single": single, "combined": {}}
    combined = {space.name: experiments.cases(study.of("combined", space.name)) for space in study.spaces["combined"]}
    return {"single": single, "combined": combined}


def _fig4(study: Study) -> dict[str, Any]:
    return {space: experiments.subsets(study.of("main", space), study.network.default) for space in study.names}


def _fig5(study: Study) -> dict[str, Any]:
    factors = sorted([1.0, *(f for f in RESIZES if f"resize-{f:g}" in study.outcomes)])
    sets = {f"{factor:g}": "main" if factor == 1 else f"resize-{factor:g}" for factor in factors}
    result: dict[str, Any] = {
        "resized": {
            space: {factor: experiments.preferences(study.of(name, space)) for factor, name in sets.items()}
            for space in study.names
        }
    }
    wide = _wide(study)
    if wide is not None:
        result["true_side"] = {space: experiments.by_side(study.of(wide, space)) for space in study.names}
    return result


def _wide(study: Study) -> str | None:
    """The set in the wide regime, where objects have the most different sizes; None but for scenes."""
    if study.settings.dataset != "fashion-scenes":
        return None
    return "main" if study.settings.regime == "wide" else "wide"


def _fig7(study: Study) -> dict[str, Any]:
    sets = {str(pixels): f"crop-{pixels}" for pixels in CROPS if f"crop-{pixels}" in study.outcomes} | {"whole view": "main"}
    return {
        space: {pixels: experiments.preferences(study.of(name, space)) for pixels, name in sets.items()}
        for space in study.names
    }


def _receptive_field(study: Study) -> dict[str, Any]:
    name = _wide(study) or "main"
    result = {}
    for space in study.names:
        outcomes = study.of(name, space)
        curve = np.array([receptive_fields(study.network, c) for c in outcomes.space])
        correlations = experiments.receptive_field_correlations(outcomes, curve)
        result[space] = correlations | {"default_curve": curve[outcomes.default].tolist(), "set": name}
    return result


EFFICIENCY = {
    "pre-trained": "efficiency",
    "recalibrated": "efficiency-recalibrated",
    "fine-tuned": "efficiency-rof",
    "fine-tuned, recalibrated": "efficiency-rof-recalibrated",
    "distilled, recalibrated": "efficiency-distillation-recalibrated",
}
"""The sets of Fig. 6 by how the network was treated."""


def _efficiency(study: Study) -> dict[str, SpaceOutcomes]:
    """What there is of them, by treatment."""
    there = {method: name for method, name in EFFICIENCY.items() if name in study.outcomes}
    return {method: study.of(name, study.spaces[name][0].name) for method, name in there.items()}


def _fig6(study: Study) -> dict[str, Any]:
    return {method: experiments.efficiency(outcomes) for method, outcomes in _efficiency(study).items()}


def _recalibration(study: Study) -> dict[str, Any]:
    scenes = study.settings.dataset == "fashion-scenes"
    pairs = {study.settings.regime if scenes else str(study.settings.dataset): ("main", "recalibrated")}
    if scenes:
        other = "wide" if study.settings.regime == "matched" else "matched"
        pairs[other] = (other, f"{other}-recalibrated")
    return {
        regime: {
            space: {
                "before": experiments.cases(study.of(before, space)),
                "after": experiments.cases(study.of(after, space)),
                "gain": experiments.gains(study.of(before, space), study.of(after, space)),
            }
            for space in study.names
        }
        for regime, (before, after) in pairs.items()
        if before in study.outcomes and after in study.outcomes
    }


COMPUTE: dict[str, Callable[[Study], dict[str, Any]]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "fig2": _fig2,
    "fig3": _fig3,
    "fig4": _fig4,
    "fig5": _fig5,
    "fig6": _fig6,
    "fig7": _fig7,
    "receptive_field": _receptive_field,
    "recalibration": _recalibration,
}
