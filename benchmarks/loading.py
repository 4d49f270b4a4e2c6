"""A rehearsal of ImageNet's files: seconds for each step until they are open, the loader's rate, and what a GPU would need.

    python -m benchmarks.loading                                        # 50,000 files, 7 GB in runs/loading, some minutes
    python -m benchmarks.loading --images 2000 --out runs/loading       # a quick look
    python -m benchmarks.loading --peak-tflops 312                      # against another GPU

The files are made by :mod:`benchmarks.imagenet_layout`, unless they are there, and go through what a run does with them.
What cannot be read must be what was made so. Rates are images a second of processor time on one core, user and system
together, so that other work on the machine hardly counts. What the engine needs is computed: the full ResNet-50 at 224
pixels, all common prefixes once, at ``--utilisation`` of the GPU's peak.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.imagenet_layout import UNREADABLE, make_layout
from dynamic import pictures
from dynamic.command import run_command
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork, load
from dynamic.preprocessing import Preprocessing
from oracle.data.digests import digest_of
from oracle.data.folders import FolderSource, class_folders, find_root
from oracle.data.listing import ImageFile, list_images, without_copies
from oracle.data.splits import rows_of_splits
from oracle.evaluation.collect import make_spaces
from oracle.reporting.text import aligned
from oracle.settings import RunSettings

MADE = "made.json"
"""In the folder: how many files were made, and which are odd."""


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """What to rehearse."""

    images: int = 50_000
    """Validation files."""
    loaded: int = 4000
    """Of them, how many are decoded to take rates."""
    out: Path = Path("runs/loading")
    """Folder of the files; used again where it holds as many."""
    region: int = 32
    """Images that are read together, as for oracle.run."""
    peak_tflops: float = 989.0
    """Of the GPU, dense, in the type that is used; 989 is an H100's in bfloat16, by its data sheet."""
    utilisation: float = 0.6
    """Share of the peak that the engine is taken to reach."""
    bounds_share: float = 1 / 3
    """Share of all multiply-accumulates that --bounds-only needs."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        for name, least in (("images", 100), ("loaded", 1), ("region", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} must be at least {least}, not {getattr(self, name)}")


class Clock:
    """Seconds of each step, on the clock and of the processor, by name."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the time of what is done within."""
        wall, processor = time.perf_counter(), _processor()
        yield
        self.steps[name] = {"seconds": time.perf_counter() - wall, "processor": _processor() - processor}


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def made(settings: LoadingSettings) -> dict[str, list[str]]:
    """The odd files by kind, after all files are there."""
    record = settings.out / MADE
    if record.exists():
        found = json.loads(record.read_text())
        if found["images"] == settings.images:
            odd: dict[str, list[str]] = found["odd"]
            return odd
    if settings.out.exists() and any(settings.out.iterdir()):
        raise UserError(f"{settings.out} holds something else: remove it, or choose another --out")
    odd = make_layout(settings.out, settings.images)
    record.write_text(json.dumps({"images": settings.images, "odd": odd}))
    return odd


def opened(settings: LoadingSettings, network: LoadedNetwork, clock: Clock) -> FolderSource:
    """The source, after its steps were timed one by one and then together, as a run takes them."""
    root = find_root(settings.out, "imagenet", "val")
    with clock.step("list names and sizes"):
        listing = list_images(root, class_folders(root, network.info, None))
    with clock.step("leave out copies"):
        files, copies = without_copies(listing.images)
    assert not copies, copies[:3]
    with clock.step("split, order"):
        rows_of_splits([file.key for file in files], seed=0)
    with clock.step("digest"):
        _digest(files)
    with clock.step("open: all of these"):
        return FolderSource("imagenet", settings.out, network.info, None, 0, None)


def _digest(files: list[ImageFile]) -> str:
    columns = ([file.key for file in files], [file.label for file in files], [file.size for file in files])
    return digest_of(*map(np.array, columns))


def rate(work: Callable[[Path], object], paths: list[Path]) -> float:
    """Images a second of processor time, in one thread."""
    began = _processor()
    for path in paths:
        work(path)
    return len(paths) / (_processor() - began)


def stages(preprocessing: Preprocessing, paths: list[Path]) -> dict[str, float]:
    """Milliseconds of processor time an image, by what is done."""

    def decoded(path: Path) -> Image.Image:
        with Image.open(path) as image:
            return pictures.upright(image)

    ready = [decoded(path) for path in paths[:200]]
    decode = 1000 / rate(decoded, paths)
    began = _processor()
    for picture in ready:
        preprocessing.array(picture)
    prepare = (_processor() - began) / len(ready) * 1000
    return {"read and decode": decode, "resize, crop, normalise": prepare}


def drafted(preprocessing: Preprocessing, paths: list[Path]) -> dict[str, float]:
    """What JPEG's own reduction to no less than the resized side would bring, and change."""
    wanted = preprocessing.resize if isinstance(preprocessing.resize, int) else 256

    def exact(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return preprocessing.array(image)

    def reduced(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            scale = wanted / min(image.size)
            if image.format == "JPEG" and scale <= 0.5:
                image.draft(None, (round(image.width * scale), round(image.height * scale)))
            return preprocessing.array(image)

    differences = []
    for path in paths[:400]:
        one, other = exact(path), reduced(path)
        differences.append(float(np.abs(one - other).mean() * np.mean(preprocessing.std) * 255))
    touched = [difference for difference in differences if difference]
    return {
        "exact": rate(exact, paths),
        "reduced": rate(reduced, paths),
        "share_changed": len(touched) / len(differences),
        "levels_of_255": float(np.mean(touched)) if touched else 0.0,
    }


def loaded(source: FolderSource, settings: LoadingSettings, clock: Clock) -> tuple[dict[str, str], float]:
    """Problems of all that was loaded, and images a second of one core on the run's real path."""
    rows = np.arange(min(settings.loaded, len(source.keys)))
    problems: dict[str, str] = {}
    name = f"load {len(rows)} images"
    with clock.step(name), ThreadPoolExecutor(1) as reader:
        parts = np.array_split(rows, -(-len(rows) // settings.region))
        for batch in reader.map(source.load, parts):
            problems |= batch.problems
    return problems, len(rows) / clock.steps[name]["processor"]


def needs(settings: LoadingSettings, network: LoadedNetwork) -> dict[str, float]:
    """Images a second that a GPU would take, by what is run on each."""
    per_second = settings.peak_tflops / 2 * 1e12 * settings.utilisation
    spaces = make_spaces(RunSettings(model="resnet50", weights="none", dataset="imagenet").space, network, 224)
    union = sorted({c for space in spaces for c in space})
    few = sorted({network.default, *union[:: -(-len(union) // 16)]})
    whole = network.costs.shared(union, 224)
    macs = {
        f"all {len(union)} configurations": whole,
        "exact bounds alone": whole * settings.bounds_share,
        f"a portfolio of {len(few)}": network.costs.shared(few, 224),
        "the default alone": network.costs.shared([network.default], 224),
    }
    return {name: per_second / each for name, each in macs.items()}


def main(settings: LoadingSettings) -> None:
    """Make, open, load, compare; print the tables."""
    clock, network = Clock(), load("resnet50", weights=None)
    with clock.step(f"make {settings.images} files"):
        odd = made(settings)
    source = opened(settings, network, clock)
    broken = {name for kind in UNREADABLE for name in odd[kind]}
    problems, per_core = loaded(source, settings, clock)
    hard = np.flatnonzero(np.isin(source.keys, sorted(set().union(*odd.values()))))
    seen = set(source.keys[: settings.loaded]) | set(source.keys[hard])
    problems |= source.load(hard).problems  # every odd one, whether it was among the loaded ones or not
    assert set(problems) == broken & seen, set(problems) ^ (broken & seen)
    paths = [settings.out / "val" / key for key in source.keys[:1000] if key not in broken]
    by_stage, draft = stages(network.info.preprocessing, paths), drafted(network.info.preprocessing, paths)
    wanted = needs(settings, network)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sizes = [path.stat().st_size for path in paths]
    sides = [_size(path) for path in paths]
    print(
        f"{settings.images} files, {np.mean(sizes) / 1000:.0f} kB and {np.mean(sides, axis=0).round()} pixels on average; "
        f"{len(source.keys)} open, {len(os.listdir(settings.out / 'val'))} classes; peak memory {peak:.1f} GiB\n"
    )
    rows = [[name, f"{took['seconds']:.1f}", f"{took['processor']:.1f}"] for name, took in clock.steps.items()]
    print(aligned(["step", "seconds", "of a core"], rows), end="\n\n")
    told = ", ".join(f"{len(names)} {kind}" for kind, names in odd.items())
    print(f"odd files: {told}; named and left out: exactly the {len(broken)} that cannot be read, such as")
    print(*(f"  {key}: {problems[key]}" for key in sorted(problems)[:3]), sep="\n", end="\n\n")
    print(f"the loader: {per_core:.0f} images a second on each core; milliseconds an image, one thread:")
    print(*(f"  {name}: {each:.2f}" for name, each in by_stage.items()), sep="\n")
    print(
        f"JPEG's own reduction: {draft['reduced']:.0f} instead of {draft['exact']:.0f} images a second; it changes "
        f"{draft['share_changed']:.1%} of the images, these by {draft['levels_of_255']:.2f} of 255 levels on average\n"
    )
    table = [[name, f"{need:.1f}", f"{need / per_core:.2g}"] for name, need in wanted.items()]
    print(f"a GPU of {settings.peak_tflops:g} TFLOP/s at {settings.utilisation:.0%}, full ResNet-50 at 224 pixels:")
    print(aligned(["run on each image", "images a second", "cores to read them"], table))
    if settings.json:
        result: dict[str, Any] = {"images": settings.images, "steps": clock.steps, "images_per_second_per_core": per_core}
        print(json.dumps(result | {"milliseconds": by_stage, "reduced": draft, "needed": wanted, "peak_gib": peak}))


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


if __name__ == "__main__":
    run_command(main, LoadingSettings, __doc__ or "")
