"""Try every configuration on every image and say what a perfect chooser would reach.

    python -m oracle.run                                                    # embedded network and data, a few minutes
    python -m oracle.run --space stride-all --regime wide --images 1000 --out runs/wide
    python -m oracle.run --model resnet50 --weights IMAGENET1K_V1 --dataset imagenet --data-dir /data/imagenet --device cuda
    python -m oracle.run --model timm/resnet26 --dynamic-layers layer3.0.conv2,layer4.0.conv2 \\
        --dataset imagefolder --data-dir photos

Leaves outcomes.zarr, labels.parquet, summary.json, report.html and figures/ in --out. A run that was interrupted goes on
when the same command is given again.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import dynamic
from dynamic.command import check_device, run_command
from dynamic.configuration import Space
from dynamic.errors import UserError
from dynamic.files import make_writable, write_whole
from dynamic.models import LoadedNetwork, load
from dynamic.scenes import Regime
from oracle.datasets import DatasetName, ImageSource, open_source
from oracle.evaluate import WalkSize, evaluate
from oracle.outcomes import OutcomesStore, read_outcomes
from oracle.report import stand_ins, text_table, write_report
from oracle.summary import make_labels, summarise, write_labels

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

SCENES_IMAGES = 250
"""Scenes a split unless told otherwise: what two cores do in a few minutes."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What to run."""

    model: str = "resnet50-slim"
    """resnet50-slim, resnext50_32x4d-slim, mobilenet_v2-slim, densenet121-slim, a torchvision model, or timm/NAME."""
    weights: str = "default"
    """default, none (random), a torchvision weights name such as IMAGENET1K_V1, or a checkpoint file."""
    dynamic_layers: str = ""
    """Comma-separated module names of one to six layers, input to output; known for the paper's four networks."""
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
    + (stride+dilation: 225,625, hours), or a JSON file: a list of configuration ids, or options per attribute and
    layer, {"stride": [[1], [2], [1, 2], [1, 2]], "dilation": [[1], [1], [1], [1, 2]]}."""
    images: int | None = None
    """Images a split (label and test); unless given, 250 of fashion-scenes, all of other data sets."""
    seed: int = 0
    """Draws the scenes, or deals a folder's images to the splits."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Any torch device."""
    dtype: str = "float32"
    """float32, bfloat16 or float64."""
    memory_gib: float | None = None
    """Memory the walk may use; unless given, half of what is free on the device."""
    region: int = 32
    """Images stored at a time: what an interruption may cost."""
    out: Path = Path("runs/oracle")
    """Folder of the run."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.region < 1:
            raise UserError(f"--region must be at least 1, not {self.region}")
        if self.memory_gib is not None and self.memory_gib <= 0:
            raise UserError(f"--memory-gib must be positive, not {self.memory_gib}")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, as {self.seed} is")
        check_device(self.device)


def run(settings: RunSettings, network: LoadedNetwork | None = None) -> dict[str, Any]:
    """The whole run; returns what ``summary.json`` holds.

    Args:
        settings: what to run.
        network: run this one, from :func:`dynamic.load`, instead of what ``settings.model`` and ``weights`` name.

    >>> run(RunSettings(dataset="imagefolder", data_dir=photos, out=out), dynamic.load(my_module, dynamic_layers=["a", "b"]))
    """
    make_writable(settings.out)
    if network is None:
        torch.manual_seed(settings.seed)  # for random weights
        layers = [name.strip() for name in settings.dynamic_layers.split(",") if name.strip()]
        network = load(settings.model, None if settings.weights == "none" else settings.weights, layers or None)
    images = settings.images
    if images is None and settings.dataset == "fashion-scenes":
        images = SCENES_IMAGES
    source = open_source(
        settings.dataset,
        network.info,
        images=images,
        data_dir=settings.data_dir,
        regime=settings.regime,
        seed=settings.seed,
        class_map=settings.class_map,
    )
    spaces = _spaces(settings.space, network)
    # Spaces share prefixes too (the default is in all of them), so one walk runs their union.
    union = Space("+".join(space.name for space in spaces), [c for space in spaces for c in space])
    store = _open_store(settings, network, source, union)
    size = WalkSize(**store.facts["walk"])
    fast = network.for_inference(settings.device, DTYPES[settings.dtype])
    evaluate(fast, source, union, store, size, settings.device, DTYPES[settings.dtype])
    outcomes = read_outcomes(settings.out)
    summary = summarise(outcomes, spaces, network.default)
    write_labels(make_labels(outcomes, spaces, network.default), settings.out / "labels.parquet")
    write_report(summary, settings.out)
    write_whole(settings.out / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _spaces(names: str, network: LoadedNetwork) -> list[Space]:
    spaces = [dynamic.space(name, network) for name in names.split(",") if name]
    if not spaces or len({space.name for space in spaces}) < len(spaces):
        raise UserError(f"--space {names!r}: name one or several different spaces, separated by commas")
    for space in spaces:
        if network.default not in space:
            raise UserError(
                f"the space {space.name!r} lacks the default {network.default.id}, the baseline of every comparison"
            )
    return spaces


def _open_store(settings: RunSettings, network: LoadedNetwork, source: ImageSource, union: Space) -> OutcomesStore:
    identity = {
        "model": network.info.name,
        "dynamic_layers": ",".join(network.dynamic_layers),
        "weights_digest": network.digest,
        "space": f"{union.name} ({len(union)} configurations, {union.digest})",
        "resolution": str(source.resolution),
        "dtype": settings.dtype,
        "device": torch.device(settings.device).type,
        "memory_gib": str(settings.memory_gib or "half of what is free"),
        "region": str(settings.region),
        **source.identity,
    }
    size = WalkSize.fitting(
        network, union, source.resolution, settings.region, settings.device, settings.memory_gib, DTYPES[settings.dtype]
    )
    facts = {
        "weights": network.info.weights,
        "classes": network.info.classes,
        "slim": network.info.slim,
        "stand_in": source.stand_in,
        "walk": asdict(size),
        "batch_norm": "folded into the convolutions",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    macs = network.costs.of_space(union, source.resolution)
    return OutcomesStore(settings.out / "outcomes.zarr", source, union, macs, identity, facts, settings.region)


def main(settings: RunSettings) -> None:
    """Run, then print the table and, if asked, the JSON line."""
    summary = run(settings)
    print(*stand_ins(summary["run"]), sep="\n", end="\n\n")
    print(text_table(summary))
    if summary["unreadable"]["count"]:
        print(f"\n{summary['unreadable']['count']} images could not be read and are left out; summary.json names them.")
    print(f"\nReport: {settings.out / 'report.html'}   labels: {settings.out / 'labels.parquet'}")
    if settings.json:
        print(json.dumps({"out": str(settings.out)} | _headline(summary)))


def _headline(summary: dict[str, Any]) -> dict[str, Any]:
    """The test split's main numbers by space, as one flat object for programs."""
    keys = ("images", "static", "worst", "median", "best", "single_best", "unsolvable_share", "macs")
    return {"spaces": {name: {key: space["test"][key] for key in keys} for name, space in summary["spaces"].items()}}


if __name__ == "__main__":
    run_command(main, RunSettings, __doc__ or "")
