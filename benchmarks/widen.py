"""The slim ResNet-50 at full width, as weights and as a run that can be compiled and served.

    python -m benchmarks.widen --out trained/widened.safetensors
    python -m benchmarks.widen --run runs/full-width                              # the run "matched" at full width
    python -m benchmarks.widen --weights default --run runs/full-width-plain      # before it was trained for its options
    python -m benchmarks.widen --resolution 224 --run runs/full-width-224         # on images of 224 pixels

Every channel stands as often as the full network is wider, and what reads it divides by that (Net2WiderNet: Chen, Goodfellow
and Shlens, ICLR 2016). Answers, and so every policy, are the slim network's within rounding; arithmetic, memory and time are
the full ResNet-50's. It says nothing of how well a full-size network would do: it is there to be timed. Least of all at
another resolution than 96, where objects are larger than any that weights, batch norms and thresholds were fitted on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dynamic import models
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.files import make_writable
from dynamic.integrity import read_record, write_record
from dynamic.models import LoadedNetwork, restore
from dynamic.norms import Statistics
from dynamic.scenes import CLASSES
from dynamic.training.checkpoint import write_weights
from oracle.run_record import OWN, NetworkRecord
from oracle.runs import Run
from selector.policies import load_policies
from selector.policies.base import POLICY
from selector.shipped import SHIPPED


@dataclass(frozen=True, kw_only=True)
class WidenSettings:
    """Which weights are widened."""

    weights: str = "distillation-ladder"
    """Weights of resnet50-slim: as for oracle.run."""
    out: Path | None = None
    """Where the full ResNet-50's weights go; oracle.run takes them as --weights. trained/widened.safetensors unless --run
    is given."""
    run: Path | None = None
    """Folder of a run that is made of them, which must not be there yet: settings, class names and preprocessing of the
    shipped run "matched". Of its own weights also its batch-norm statistics, its outcomes (the slim network's, which are the
    same within rounding) and the policies that look at answers alone; of others nothing but the static default."""

    resolution: int = 96
    """Side in pixels that a run's network sees; scenes are enlarged to it."""

    def __post_init__(self) -> None:
        if not 32 <= self.resolution <= 1024:
            raise UserError(f"--resolution must be from 32 to 1024, not {self.resolution}")
        if self.run is not None and self.run.exists():
            raise UserError(f"--run {self.run} is there already: delete it, or name another folder")


def widened(slim: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``slim``'s function in tensors of ``full``'s shapes.

    Args:
        slim, full: state dictionaries of one architecture at two widths; each width of ``full`` is a multiple.
    """
    found = {}
    for name, wide in full.items():
        narrow = slim[name]
        times = [w // n for w, n in zip(wide.shape, narrow.shape, strict=True)]
        found[name] = narrow.repeat(times) if times else narrow.clone()
        if narrow.ndim > 1:  # kernels and matrices read each of their inputs so many times
            found[name] = found[name] / times[1]
    return found


def widened_statistics(statistics: Statistics, slim: LoadedNetwork, full: LoadedNetwork) -> Statistics:
    """Recalibrated batch norms of the slim network as the full one's."""
    segments = slim.for_inference(statistics=statistics).program.segments
    moments = []
    for segment, narrow in zip(segments, statistics.moments, strict=True):
        parts = narrow.split([norm.num_features for norm in segment.norms], dim=2) if segment.norms else ()
        moments.append(torch.cat([part.repeat(1, 1, _TIMES) for part in parts], dim=2) if parts else narrow)
    return replace(statistics, moments=tuple(moments), weights_digest=full.digest)


_TIMES = 4
"""As many channels has the full ResNet-50."""


def make_run(weights: str, stored: Path, folder: Path, resolution: int) -> None:
    """A run of the widened network.

    Args:
        weights: of the slim network.
        stored: the widened ones.
        folder: of the run.
        resolution: side in pixels that its network sees.
    """
    source, run = Run.open(SHIPPED["matched"]), Run(folder)
    make_writable(folder)
    shutil.copy(stored, run.weights_file)
    record = source.record.network
    full = restore(
        "resnet50",
        load_file(run.weights_file),
        record.classes,
        record.dynamic_layers,
        weights=f"{weights}, widened",
        preprocessing=source.record.preprocessing,
    )
    network = NetworkRecord(
        model="resnet50",
        dynamic_layers=record.dynamic_layers,
        classes=record.classes,
        weights=full.info.weights,
        registered=None,
        digest=full.digest,
        slim=False,
    )
    settings = source.record.settings | {"model": "resnet50", "weights": str(stored)}
    same = weights == source.record.settings["weights"]
    digest = OWN
    if same:
        assert source.statistics is not None
        statistics = widened_statistics(source.statistics, source.network, full)
        statistics.save(run.statistics_file)
        digest = statistics.digest
    shutil.copytree(source.outcomes_store, run.outcomes_store)
    preprocessing = replace(source.record.preprocessing, resize=resolution, crop=resolution)
    same_otherwise = replace(source.record, settings=settings, network=network, statistics=digest, files={})
    run.write_record(replace(same_otherwise, resolution=resolution, preprocessing=preprocessing))
    run.seal()
    if same:
        copy_policies(source, run, full)


def copy_policies(source: Run, run: Run, full: LoadedNetwork) -> None:
    """The policies that look at answers alone; features have other channels.

    What they are expected to cost is scaled as the default's cost is, which is exact for the default alone.
    """
    before = source.network.macs(full.default, source.record.resolution)
    times = full.macs(full.default, run.record.resolution) / before
    for policy in load_policies(source):
        asked = policy.asks(0, len(full.dynamic_layers))
        if asked.groups or asked.stages:
            continue
        shutil.copytree(source.policies / policy.name, run.policies / policy.name)
        facts = read_record(run.policies / policy.name / POLICY)
        facts["network"] |= asdict(run.digests)
        for point in (*facts["points"], *facts["state"].get("steps", ())):
            point["macs"] *= times
        write_record(run.policies / policy.name / POLICY, facts)


def main(settings: WidenSettings) -> None:
    """Write the weights, and the run."""
    slim = models.load("resnet50-slim", settings.weights).original
    with torch.device("meta"):
        full: nn.Module = models.build("resnet50", len(CLASSES))
    out = settings.out or Path("trained/widened.safetensors" if settings.run is None else f"{settings.run}.safetensors")
    make_writable(out.parent)
    write_weights(widened(slim.state_dict(), full.state_dict()), out, {"weights": settings.weights})
    if settings.run is None:
        print(f"weights: {out}   try them: python -m oracle.run --model resnet50 --weights {out} ...")
        return
    make_run(settings.weights, out, settings.run, settings.resolution)
    if settings.out is None:
        out.unlink()  # the run has a copy
    print(f"run: {settings.run}   try it: SERVING_NETWORK={settings.run} bentoml serve")


if __name__ == "__main__":
    run_command(main, WidenSettings, __doc__ or "")
