"""The options of ``python -m oracle.run``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dynamic.command import check_device
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork, NetworkSettings, Pictures, load_network
from dynamic.scenes import CANVAS, Regime, scenes_preprocessing
from oracle.data.sources import DatasetName
from oracle.ray_settings import RaySettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

SCENES_IMAGES = 250
"""Scenes a split by default: what two cores do in a few minutes."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(NetworkSettings, RaySettings):
    """What to run."""

    dataset: DatasetName = "fashion-scenes"
    """Which images."""
    data_dir: Path | None = None
    """Folder of the data set (class folders in it, or in its val/); not needed for fashion-scenes."""
    class_map: Path | None = None
    """JSON file, folder name -> class index, where folder names do not tell."""
    regime: Regime = "matched"
    """Of fashion-scenes: object sides as in training, or far beyond."""
    space: str = "stride,dilation,size"
    """Comma-separated: stride (361), stride-all (400), dilation (625), size (625), efficiency (4096), combinations with
    + (stride+dilation: 225,625, hours), default (that alone), or a JSON file: a list of ids, or options per attribute and
    layer, {"stride": [[1], [2], [1, 2], [1, 2]], "dilation": [[1], [1], [1], [1, 2]]}."""
    images: int | None = None
    """Images a split (label and test); unless given, 250 of fashion-scenes, all of other data sets."""
    recalibrate: int = 0
    """Re-estimate batch-norm statistics for every configuration on up to so many images of the label split, without
    their labels; 0 keeps the network's own."""
    recalibrate_regime: Regime | None = None
    """Of fashion-scenes: re-estimate on images of this regime instead of --regime. Statistics of the scales that a
    network was trained on serve it better elsewhere too."""
    keep_default: bool = False
    """When re-estimating statistics, leave the default configuration the network's own, so that it stays what it was."""
    resize: float = 1.0
    """Enlarge or reduce the images by this factor: the network sees another resolution."""
    crop: float = 1.0
    """Keep this share of each side of the images, about the centre."""
    seed: int = 0
    """Draws the scenes, or orders a folder's images within each split."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Any torch device."""
    dtype: str = "float32"
    """float32, bfloat16 or float64."""
    memory_gib: float | None = None
    """Memory the walk may use; unless given, half of what is free on the device."""
    region: int = 32
    """Images stored at a time: what an interruption may cost."""
    study: str = ""
    """Experiments of the paper beside the main run: all, or some of table1, table2, table3, fig2, fig3, fig4, fig5,
    fig6, fig7, receptive_field, recalibration, separated by commas. What is missing is evaluated into OUT/sets."""
    efficiency_space: str = "efficiency"
    """The space of fig6: as for --space, one."""
    tuned_dir: Path = Path("trained")
    """Where oracle.rof left fine-tuned networks, MODEL-METHOD-SPACE/weights.safetensors, for table2, fig2, fig3, fig6;
    the slim ResNet-50's are embedded."""
    bounds_only: bool = False
    """Only worst and best case and the cheapest agreeing configurations, exactly, skipping what cannot change them."""
    out: Path = Path("runs/oracle")
    """Folder of the run."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        NetworkSettings.__post_init__(self)
        RaySettings.__post_init__(self)
        check_scenes(self, self.dataset)
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.region < 1:
            raise UserError(f"--region must be at least 1, not {self.region}")
        if self.memory_gib is not None and self.memory_gib <= 0:
            raise UserError(f"--memory-gib must be positive, not {self.memory_gib}")
        for name in ("seed", "recalibrate"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must not be negative, as {getattr(self, name)} is")
        if self.recalibrate_regime is not None and not self.recalibrate:
            raise UserError("--recalibrate-regime says on which images to re-estimate statistics: pass --recalibrate N too")
        if self.keep_default and not self.recalibrate:
            raise UserError("--keep-default goes with re-estimated statistics: pass --recalibrate N too")
        check_device(self.device)


def check_scenes(settings: NetworkSettings, dataset: DatasetName) -> None:
    """Raise UserError where the settings would have fashion-scenes prepared in another way than they are rendered."""
    pictures = settings.pictures
    if dataset == "fashion-scenes" and pictures != replace(Pictures(), resolution=pictures.resolution):
        raise UserError(
            "fashion-scenes are rendered normalised: --mean, --std and --preprocessing are for pictures of another --dataset"
        )
    if dataset == "fashion-scenes" and pictures.resolution not in (None, CANVAS):
        raise UserError(
            f"fashion-scenes are rendered at {CANVAS} pixels, not {pictures.resolution}: enlarge or reduce them with "
            "--resize FACTOR, or choose another --dataset"
        )


def load_for(settings: NetworkSettings, dataset: DatasetName, seed: int) -> LoadedNetwork:
    """The network of the settings, for pictures of a data set; see :func:`dynamic.models.load_network`."""
    return load_network(settings, seed, scenes_preprocessing() if dataset == "fashion-scenes" else None)
