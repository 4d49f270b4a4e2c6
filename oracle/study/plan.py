"""Which outcomes each table and figure of the paper needs.

A set of outcomes is one network on one view of the images in some spaces; parts of the study share sets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dynamic.configuration import Space
from dynamic.errors import UserError
from dynamic.models import DYNAMIC_LAYERS, LoadedNetwork, embedded_weights
from dynamic.recalibration import can_recalibrate
from oracle.data.sources import SPLITS
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
    images = image_count(settings)
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


def image_count(settings: RunSettings) -> int:
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
