"""The sets of outcomes that parts ask for: one network on one view of the images in some spaces, shared between parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dynamic.configuration import Space
from dynamic.errors import UserError
from dynamic.models import DYNAMIC_LAYERS, LoadedNetwork, embedded_weights, folder_name
from dynamic.recalibration import can_recalibrate
from oracle.data.sources import SPLITS
from oracle.settings import RunSettings

METHODS = ("rof", "distillation")
"""Ways of fine-tuning that :mod:`oracle.rof` has."""

SMALLEST_VIEW = 8
"""Pixels below which Figs. 5 and 7 leave a view out."""

CALIBRATION = 250
"""Unlabelled images of the label split that batch-norm statistics are re-estimated on."""

EFFICIENCY = {
    "pre-trained": "efficiency",
    "recalibrated": "efficiency-recalibrated",
    "fine-tuned": "efficiency-rof",
    "fine-tuned, recalibrated": "efficiency-rof-recalibrated",
    "distilled, recalibrated": "efficiency-distillation-recalibrated",
}
"""The sets in the efficiency space by how the network was treated."""


@dataclass(frozen=True)
class Planned:
    """A set of outcomes to evaluate."""

    settings: RunSettings
    splits: tuple[str, ...] = SPLITS


@dataclass
class Planner:
    """What parts ask for their sets.

    Attributes:
        settings: of the main run.
        network: of the main run.
        spaces: of the main run.
        own_network: it was given in Python: no other architectures or fine-tuned weights go with it.
        planned: sets by name.
        left_out: why a set that one might expect is not planned.
    """

    settings: RunSettings
    network: LoadedNetwork
    spaces: Sequence[Space]
    own_network: bool = False
    planned: dict[str, Planned] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, *, splits: tuple[str, ...] = ("test",), **changes: Any) -> None:
        """Ask for a set: the main run's settings with some changes."""
        base = replace(self.settings, study="", bounds_only=False, out=self.settings.out / "sets" / name)
        self.planned[name] = Planned(replace(base, **changes), splits)

    def add_recalibrated(self, name: str, **changes: Any) -> None:
        """Ask for a set with re-estimated statistics, where the network has batch norms for it."""
        if can_recalibrate(self.network):
            self.add(name, recalibrate=CALIBRATION, **changes)

    @property
    def other_regime(self) -> str | None:
        """Of fashion-scenes; None elsewhere."""
        if self.settings.dataset != "fashion-scenes":
            return None
        return "wide" if self.settings.regime == "matched" else "matched"

    def add_other_regime(self) -> None:
        """Ask for the scenes of the other regime."""
        if self.other_regime:
            self.add(self.other_regime, regime=self.other_regime)

    def add_tuned(self, *, recalibrated: bool) -> None:
        """Ask for the fine-tuned network of each of the main run's spaces, where there are weights."""
        for space in self.spaces:
            weights = self.tuned_weights("rof", space.name)
            if weights is not None:
                name = _argument_of(self.settings.space, space.name)
                self.add(f"rof-{space.name}", splits=SPLITS, weights=weights, space=name)
                if recalibrated:
                    self.add_recalibrated(f"rof-recalibrated-{space.name}", weights=weights, space=name)

    def add_efficiency(self) -> None:
        """Ask for the sets in the efficiency space."""
        cheap = self.settings.efficiency_space
        self.add("efficiency", space=cheap)
        self.add_recalibrated("efficiency-recalibrated", space=cheap)
        for method in METHODS:
            weights = self.tuned_weights(method, Path(cheap).stem)
            if weights is not None:
                if method == "rof":  # the other's statistics are the default's alone
                    self.add("efficiency-rof", space=cheap, weights=weights)
                self.add_recalibrated(f"efficiency-{method}-recalibrated", space=cheap, weights=weights)

    @property
    def images(self) -> int:
        """Images a split that the views of section 4.5 take their share of."""
        return self.settings.images or (250 if self.settings.dataset == "fashion-scenes" else 5000)

    def tuned_weights(self, method: str, space: str) -> str | None:
        """Weights that ``oracle.rof`` made of this network: in ``--tuned-dir``, or embedded; None where there are none.

        Those that began with other weights than the network has, by the digest in their metadata, are left out.

        Raises:
            UserError: a file that is there and cannot be read.
        """
        if self.own_network:
            return None
        folder = self.settings.tuned_dir / f"{folder_name(self.settings.model)}-{method}-{space}"
        path = folder / "weights.safetensors"
        if path.exists():
            try:
                with safe_open(path, "pt") as file:
                    start = (file.metadata() or {}).get("start", self.network.digest)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} cannot be read ({error}): remove it or make it anew with oracle.rof") from error
            if start == self.network.digest:
                return str(path)
            self.left_out[folder.name] = f"{path} was made of other weights than these"
        name = f"{method}-{space}"
        return name if self.settings.weights == "default" and embedded_weights(self.settings.model, name) else None


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
