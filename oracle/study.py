"""The whole study: which outcomes each of the paper's tables and figures needs, and what comes of them.

Every set of outcomes is a run of its own, in ``RUN/sets/NAME`` (the main one in ``RUN`` itself): evaluated once, resumed
where it was interrupted, shared by all the parts that need it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import safe_open

from dynamic.configuration import ATTRIBUTES, Configuration, Space
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.models import DYNAMIC_LAYERS, LoadedNetwork, embedded_weights
from dynamic.recalibration import can_recalibrate
from dynamic.receptive_field import receptive_fields
from oracle import experiments
from oracle.collect import Collection, collect, estimate, open_collection, walk_size
from oracle.datasets import SPLITS
from oracle.experiments import SpaceOutcomes
from oracle.settings import RunSettings

PARTS = {
    "table1": "worst, median and best case of four architectures (section 4.1)",
    "table2": "random option fine-tuning and recalibrated batch norms (section 3.4)",
    "table3": "combined attributes at equal budget (section 4.4)",
    "fig2": "different predictions for an image, before and after fine-tuning (section 4.2)",
    "fig3": "portfolios, before and after fine-tuning (section 4.2)",
    "fig4": "subsets of the dynamic layers (section 4.3)",
    "fig5": "preferred options and scale (section 4.5)",
    "fig6": "the efficiency bound (section 4.6)",
    "fig7": "preferred options and context (section 4.5)",
    "receptive_field": "receptive field and its growth as explanations (section 4.5)",
    "recalibration": "what recalibrated batch norms gain, in both regimes (ours)",
}

RESIZES = (0.25, 0.5, 2.0, 4.0)
"""Factors of Fig. 5 beside 1."""

CROPS = (50, 100, 150, 200)
"""Of Fig. 7: pixels of 256, of which the network sees 224; its 250 is the whole view, which the main run has."""

LISTS = {2: 25, 3: 8}
"""Of Table 3: options lists are so long when two or three attributes are combined: 625 and 512 configurations."""

METHODS = ("rof", "distillation")
"""Of :mod:`oracle.rof`."""

SMALLEST_VIEW = 8
"""Pixels below which Figs. 5 and 7 leave a view out."""

CALIBRATION = 250
"""Unlabelled images of the label split that batch-norm statistics are re-estimated on."""


def parse_parts(names: str) -> list[str]:
    """``all`` or comma-separated parts, in the paper's order. Raises UserError for an unknown one."""
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in PARTS and name != "all"]
    if unknown or not asked:
        listed = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
        raise UserError(f"--study {names!r}: choose all, or from {listed}")
    return [name for name in PARTS if name in asked or "all" in asked]


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


@dataclass(frozen=True)
class Planned:
    """A set of outcomes to evaluate."""

    settings: RunSettings
    splits: tuple[str, ...] = SPLITS


def plan(
    settings: RunSettings,
    network: LoadedNetwork,
    spaces: Sequence[Space],
    parts: Sequence[str],
    own_network: bool = False,
) -> dict[str, Planned]:
    """The sets that ``parts`` need beside the main one and the combined spaces of Table 3, by name.

    Fine-tuned networks are left out where there are no weights for them (:func:`tuned_weights`), recalibrated ones where the
    network has no batch norms for it; other architectures and fine-tuned weights where the network is one's own.
    """
    base = replace(settings, study="", bounds_only=False)
    planned: dict[str, Planned] = {}

    def add(name: str, splits: tuple[str, ...] = SPLITS, **changes: Any) -> None:
        planned[name] = Planned(replace(base, out=settings.out / "sets" / name, **changes), splits)

    wanted = set(parts)
    images = len_of(settings)
    recalibrates = can_recalibrate(network)
    if "table1" in wanted and not own_network:
        for model in sibling_models(settings):
            add(f"architecture-{model}", ("test",), model=model, dynamic_layers="")
    if wanted & {"table2", "recalibration"} and recalibrates:
        add("recalibrated", ("test",), recalibrate=CALIBRATION)
    if wanted & {"table2", "fig2", "fig3"}:
        for space in spaces:
            weights = None if own_network else tuned_weights(settings, network, "rof", space.name)
            if weights is not None:
                name = _argument_of(settings.space, space.name)
                add(f"rof-{space.name}", weights=weights, space=name)
                if "table2" in wanted and recalibrates:
                    add(f"rof-recalibrated-{space.name}", ("test",), weights=weights, space=name, recalibrate=CALIBRATION)
    if settings.dataset == "fashion-scenes":
        other = "wide" if settings.regime == "matched" else "matched"
        if wanted & {"recalibration", "fig5", "receptive_field"}:
            add(other, ("test",), regime=other)
        if "recalibration" in wanted and recalibrates:
            add(f"{other}-recalibrated", ("test",), regime=other, recalibrate=CALIBRATION)
    if "fig5" in wanted:
        for factor in RESIZES:
            if network.info.resolution * factor >= SMALLEST_VIEW:
                share = 5 if factor <= 1 else 10  # enlarged images cost most
                add(f"resize-{factor:g}", ("test",), resize=factor, images=max(images // share, 1))
    if "fig7" in wanted:
        for pixels in CROPS:
            if network.info.resolution * pixels / 224 >= SMALLEST_VIEW:
                add(f"crop-{pixels}", ("test",), crop=pixels / 224, images=max(2 * images // 5, 1))
    if wanted & {"fig6", "table2"}:
        cheap = settings.efficiency_space
        add("efficiency", ("test",), space=cheap)
        if recalibrates:
            add("efficiency-recalibrated", ("test",), space=cheap, recalibrate=CALIBRATION)
        for method in METHODS:
            weights = None if own_network else tuned_weights(settings, network, method, Path(cheap).stem)
            if weights is not None:
                if method == "rof":  # the other's statistics are the default's alone
                    add("efficiency-rof", ("test",), space=cheap, weights=weights)
                if recalibrates:
                    add(
                        f"efficiency-{method}-recalibrated",
                        ("test",),
                        space=cheap,
                        weights=weights,
                        recalibrate=CALIBRATION,
                    )
    return planned


def len_of(settings: RunSettings) -> int:
    """Images a split that the views of section 4.5 take their share of."""
    return settings.images or (250 if settings.dataset == "fashion-scenes" else 5000)


def _argument_of(spaces: str, name: str) -> str:
    """The part of ``--space`` that made the space ``name``: itself, or a file."""
    return next(part for part in spaces.split(",") if Path(part).stem == name or part == name)


def sibling_models(settings: RunSettings) -> list[str]:
    """The paper's other architectures, as slim or as full as the network at hand; none for a network of one's own."""
    slim = "-slim" if settings.model.endswith("-slim") else ""
    own = settings.model.removesuffix("-slim")
    of_one_model = Path(settings.weights).suffix or Path(settings.weights).exists() or settings.weights.startswith(METHODS)
    if own not in DYNAMIC_LAYERS or of_one_model:
        return []
    return [f"{name}{slim}" for name in DYNAMIC_LAYERS if name != own]


def tuned_weights(settings: RunSettings, network: LoadedNetwork, method: str, space: str) -> str | None:
    """Weights that ``oracle.rof`` made of this network: in ``--tuned-dir``, or embedded; None where there are none.

    Those that began with other weights than the network has, by the digest in their metadata, are left out and told.
    """
    path = settings.tuned_dir / f"{settings.model.replace('/', '-')}-{method}-{space}" / "weights.safetensors"
    if path.exists():
        with safe_open(path, "pt") as file:
            start = (file.metadata() or {}).get("start", network.digest)
        if start == network.digest:
            return str(path)
        print(f"left out: {path} was made of other weights than these", file=sys.stderr)
    name = f"{method}-{space}"
    return name if settings.weights == "default" and embedded_weights(settings.model, name) else None


def open_study(main: Collection) -> Study:
    """Plan a study and open its sets, before anything is evaluated.

    A set that does not fit (an architecture without the space's default, no memory for it) is left out, and told.

    Raises:
        UserError: an unknown part, options that a study sets itself, or outcomes of another run where a set should be.
    """
    settings = main.settings
    if settings.recalibrate or settings.crop != 1 or settings.resize != 1:
        raise UserError("--study recalibrates, crops and resizes by itself: give it without --recalibrate, --crop, --resize")
    study = Study(settings, main.network, parse_parts(settings.study))
    study.opened["main"], study.seconds["main"] = main, estimate(main)
    for name, item in plan(settings, main.network, main.spaces, study.parts, main.own_network).items():
        same = (item.settings.model, item.settings.weights) == (settings.model, settings.weights)
        try:
            collection = open_collection(item.settings, main.network if same else None, item.splits)
            walk_size(collection, collection.union)
        except UserError as error:
            study.left_out[name] = str(error)
        else:
            study.opened[name], study.seconds[name] = collection, estimate(collection)
    _print_plan(study)
    return study


def run_study(study: Study, outcomes: xr.Dataset) -> dict[str, Any]:
    """Evaluate what is missing, then compute every part.

    Args:
        study: from :func:`open_study`.
        outcomes: the main run's.

    Returns:
        By part, JSON-ready data; under ``sets`` what each set of outcomes was; under ``left_out`` why a set is not there.
    """
    _keep(study, "main", study.opened["main"], outcomes)
    if "table3" in study.parts:
        for name, item in _combined(study).items():
            study.opened[name] = open_collection(item.settings, study.network, item.splits)
    for name, collection in study.opened.items():
        if name != "main":
            print(f"\n{name}", file=sys.stderr)
            _keep(study, name, collection, collect(collection))
    computed = {part: COMPUTE[part](study) for part in study.parts}
    described = {name: _described(data) for name, data in study.outcomes.items()}
    return computed | {"sets": described, "left_out": study.left_out}


def _keep(study: Study, name: str, collection: Collection, outcomes: xr.Dataset) -> None:
    study.outcomes[name], study.spaces[name] = outcomes, collection.spaces
    study.defaults[name] = collection.network.default


def _described(outcomes: xr.Dataset) -> dict[str, Any]:
    kept = ("model", "weights", "weights_digest", "resolution", "space", "regime", "recalibrate", "crop", "resize", "splits")
    return {key: outcomes.attrs[key] for key in kept if key in outcomes.attrs}


def _print_plan(study: Study) -> None:
    """A table of what is to be evaluated and how long it will take, on stderr."""
    lines = []
    for name, collection in study.opened.items():
        seconds = study.seconds[name]
        time = f"{seconds / 60:6.1f} min" if seconds else "      done"
        lines.append(
            f"  {name:<40} {len(collection.source.keys):>7} images {len(collection.union):>7} configurations {time}"
        )
    total = sum(study.seconds.values())
    if "table3" in study.parts:  # its spaces are known once the main run is there
        lines.append(f"  {'combined':<40} {'':>7} about as long as the main run")
        total += study.seconds["main"]
    for name, reason in study.left_out.items():
        lines.append(f"  {name:<40} left out: {reason}")
    print(*["To evaluate for the study:", *lines, f"  about {total / 60:.0f} minutes in all"], sep="\n", file=sys.stderr)


def _combined(study: Study) -> dict[str, Planned]:
    """Table 3's spaces, of the lists that the main run's label split gives; stored as files that ``--space`` takes."""
    by_attribute: dict[str, SpaceOutcomes] = {}
    for name in study.names:
        label = study.of("main", name, "label")
        varied = [a for a in ATTRIBUTES if len({getattr(c, a) for c in label.space}) > 1]
        if len(varied) == 1:
            by_attribute[varied[0]] = label
    folder = study.settings.out / "sets" / "combined"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for attributes in _combinations(list(by_attribute)):
        lists = [experiments.greedy_list(by_attribute[a], LISTS[len(attributes)]) for a in attributes]
        space = experiments.combine("x".join(attributes), lists, study.network.default)
        path = folder / f"{space.name}.json"
        write_whole(path, json.dumps(space.ids).encode())
        files.append(str(path))
    if not files:
        return {}
    settings = replace(study.settings, study="", bounds_only=False, out=folder, space=",".join(files))
    return {"combined": Planned(settings, ("test",))}


def _combinations(attributes: list[str]) -> list[tuple[str, ...]]:
    pairs: list[tuple[str, ...]] = [(a, b) for i, a in enumerate(attributes) for b in attributes[i + 1 :]]
    return [*pairs, tuple(attributes)] if len(attributes) == 3 else pairs


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
    if study.settings.dataset == "fashion-scenes":
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
