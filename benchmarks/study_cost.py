"""What the whole study costs on ImageNet's 50,000 validation images: multiply-accumulates, hours at a given speed, disk.

    python -m benchmarks.study_cost --tmacs-per-second 0.09        # what benchmarks.oracle_speed measured on two cores

Nothing is run: multiply-accumulates are counted on meta tensors, with every common prefix of options run once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

from dynamic.command import run_command
from dynamic.models import LoadedNetwork, load
from oracle.evaluation.collect import make_spaces
from oracle.settings import RunSettings
from oracle.study.registry import parts
from oracle.study.runner import plan
from oracle.study.sets import METHODS
from oracle.study.table3 import LISTS

BYTES_AN_OUTCOME = 6
"""A class in two bytes and a probability in four, before compression."""


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """What to assume."""

    images: int = 25_000
    """A split; ImageNet's validation images make two of 25,000."""
    tmacs_per_second: float = 0.09
    """Speed of the machine, in 10^12 multiply-accumulates a second: see benchmarks.oracle_speed."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@cache
def _network(model: str) -> LoadedNetwork:
    return load(model, weights=None)


@cache
def _macs(model: str, spaces: str, resolution: int) -> tuple[int, int]:
    """Configurations, and MACs of one image under all of them."""
    network = _network(model)
    union = sorted({c for space in make_spaces(spaces, network) for c in space})
    return len(union), network.costs.shared(union, resolution)


def main(settings: CostSettings) -> None:
    """Print a row for each set of outcomes."""
    base = RunSettings(model="resnet50", weights="none", dataset="imagenet", images=settings.images, study="all")
    network = _network("resnet50")
    planned = plan(base, network, make_spaces(base.space, network), list(parts())).planned
    runs = {"main": (base, 2)} | {name: (item.settings, len(item.splits)) for name, item in planned.items()}
    for space in base.space.split(","):  # fine-tuned networks, for which there are no weights here
        runs[f"rof-{space}"] = replace(base, space=space), 2
        runs[f"rof-recalibrated-{space}"] = replace(base, space=space, recalibrate=250), 2
    for method in ("rof", *(f"{method}-recalibrated" for method in METHODS)):
        runs[f"efficiency-{method}"] = replace(base, space=base.efficiency_space), 1
    total, disk = 0.0, 0.0
    print(f"{'set':<36} {'images':>8} {'configurations':>15} {'TMACs an image':>15} {'hours':>9} {'GB':>6}")
    rows = []
    for name, (run, splits) in runs.items():
        resolution = round(round(224 * run.crop) * run.resize)
        configurations, macs = _macs(run.model, run.space, resolution)
        images = (run.images or settings.images) * splits
        rows.append((name, images, configurations, macs))
    pairs = 3 * LISTS[2] ** 2 + LISTS[3] ** 3
    rows.append(("combined", settings.images, pairs, pairs * network.macs(network.default, 224)))  # nothing shared: a bound
    for name, images, configurations, macs in rows:
        hours = images * macs / (settings.tmacs_per_second * 1e12) / 3600
        gigabytes = images * configurations * BYTES_AN_OUTCOME / 1e9
        total, disk = total + images * macs, disk + gigabytes
        print(f"{name:<36} {images:>8} {configurations:>15} {macs / 1e12:>15.2f} {hours:>9,.0f} {gigabytes:>6.2f}")
    hours = total / (settings.tmacs_per_second * 1e12) / 3600
    print(f"{'all':<36} {'':>8} {'':>15} {total / 1e18:>12.2f} E {hours:>9,.0f} {disk:>6.2f}")
    if settings.json:
        print(json.dumps({"macs": total, "hours": hours, "gigabytes": disk}))


if __name__ == "__main__":
    run_command(main, CostSettings, __doc__ or "")
