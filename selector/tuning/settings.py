"""The options of ``python -m selector.tune``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dynamic.command import check_device
from dynamic.errors import UserError
from dynamic.models import NetworkSettings
from dynamic.scenes import Regime
from oracle.data.sources import DatasetName
from oracle.ray_settings import RaySettings
from oracle.settings import DTYPES, RunSettings, check_scenes
from selector.learning.portfolios import LARGEST
from selector.policies import make
from selector.policies.guarantee import CONFIDENCE
from selector.policies.objectives import TOLERANCE, Terms

SCENES_IMAGES = 1000
"""Scenes a split, unless given: enough labels to tell a few points of accuracy."""

POLICIES = "correctness,head,blend,cascade"
"""Those of the good ones in docs/SELECTORS.md that are fitted in a minute or two."""


@dataclass(frozen=True, kw_only=True)
class TuneSettings(NetworkSettings, RaySettings):
    """Which network, which images, and how much work to put into it."""

    data_dir: Path | None = None
    """Folder of the images, in it (or in its val/) one folder a class; fashion-scenes, which are embedded, unless given."""
    dataset: DatasetName | None = None
    """What lies in that folder; imagefolder unless given."""
    class_map: Path | None = None
    """JSON file, folder name -> class index, where folder names do not tell."""
    regime: Regime = "matched"
    """Of fashion-scenes: object sides as in training, or far beyond."""
    images: int | None = None
    """Images a split (label and test); unless given, 1000 of fashion-scenes, all of a folder."""
    space: str = "stride"
    """What may be chosen, as for oracle.run --space."""
    search_images: int = 100
    """Label images that the whole space is tried on."""
    candidates: int = 16
    """Configurations that are kept of the space and tried on all images, 2 to 32."""
    portfolio: int = 8
    """Configurations that policies choose among: those of the candidates whose choice can best be learned."""
    recalibrate: int = 200
    """Try batch-norm statistics re-estimated for every configuration on up to so many label images, and keep them if
    the label split says that they help; 0 keeps the network's own."""
    distil: int = 0
    """First fine-tune for so many epochs on DIR/train, with the default as teacher of the other configurations."""
    policies: str = POLICIES
    """Comma-separated learned policies to try, as for selector.train (an empty text: all); FILE.py:CLASS is one of your
    own."""
    tolerance: float = TOLERANCE
    """Accuracy that may be given up for fewer multiply-accumulates, as a share (0.01: a point): a saving is recommended, and
    served, only where a bound on held-out label images says that no more is lost. Fix it beforehand."""
    confidence: float = CONFIDENCE
    """Share of label sets for which that bound holds, at least."""
    timing: bool = False
    """Also measure milliseconds of every policy."""
    seed: int = 0
    """Orders images, draws scenes and folds."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""
    dtype: str = "float32"
    """float32, bfloat16 or float64."""
    memory_gib: float | None = None
    """Memory that may be used; unless given, half of what is free on the device."""
    out: Path = Path("runs/tuned")
    """Folder of the run; the same command goes on where it was interrupted."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        NetworkSettings.__post_init__(self)
        RaySettings.__post_init__(self)
        if self.data_dir is None and self.dataset not in (None, "fashion-scenes"):
            raise UserError(f"--dataset {self.dataset} needs --data-dir, the folder that holds its class folders")
        check_scenes(self, self.images_of)
        for name in ("candidates", "portfolio"):
            if not 2 <= getattr(self, name) <= LARGEST:
                raise UserError(f"--{name} must be from 2 to {LARGEST}, not {getattr(self, name)}")
        if self.images is not None and self.images < 1:
            raise UserError(f"--images must be at least 1, not {self.images}")
        if self.search_images < 1:
            raise UserError(f"--search-images must be at least 1, not {self.search_images}")
        for name in ("recalibrate", "distil", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must not be negative, as {getattr(self, name)} is")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        make(self.policies)
        self.terms  # noqa: B018, checks
        check_device(self.device)

    @property
    def terms(self) -> Terms:
        """Of what policies guarantee."""
        return Terms(tolerance=self.tolerance, confidence=self.confidence)

    @property
    def images_of(self) -> DatasetName:
        """The data set."""
        return self.dataset or ("fashion-scenes" if self.data_dir is None else "imagefolder")

    @property
    def run(self) -> RunSettings:
        """Of the run that is made: the network and images of these settings, still under the whole space."""
        images = self.images
        if images is None and self.images_of == "fashion-scenes":
            images = SCENES_IMAGES
        shared = {
            name: getattr(self, name) for name in "data_dir class_map regime space seed device dtype memory_gib out".split()
        }
        return RunSettings(**self.network, **self.of_ray, **shared, dataset=self.images_of, images=images)

    @property
    def network(self) -> dict[str, Any]:
        """The options that name the network and prepare its pictures."""
        return {name: getattr(self, name) for name in NetworkSettings.__dataclass_fields__}

    def with_weights(self, weights: str) -> TuneSettings:
        """The same of other weights."""
        return replace(self, weights=weights)

    def to_json(self) -> dict[str, Any]:
        """What was asked for, JSON-ready."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
