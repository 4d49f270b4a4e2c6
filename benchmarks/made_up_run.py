"""A run of any size that no network was run for: made-up outcomes and observations, in the formats of real ones.

An image has a difficulty, a preferred scale, and a class that it is mostly mistaken for; a configuration has a skill and a
scale of its own, which follow from its multiply-accumulates. So configurations are right on much the same images, their
errors agree, and which of them is right can be foreseen in part. Features are random directions of difficulty and scale amid
noise. Everything follows from the seed.

    python -m benchmarks.made_up_run --images 5000 --out runs/made-up       # then any command on runs/made-up/run

:mod:`benchmarks.imagenet_size` takes the times of these commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from dynamic.command import run_command
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.integrity import write_arrays
from dynamic.models import load
from oracle.data.sources import ImageSource
from oracle.evaluation.collect import _Opened, make_spaces, open_collection
from oracle.outcomes import OutcomesStore
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.observing import observed_configurations
from selector.observation.earlier import block_file
from selector.observation.looking import halved, look_at_batch, stage_names
from selector.observation.observations import Observations
from selector.observation.observe import BLOCK, observe

PAPER = "stride,dilation,size"
"""The three spaces of the paper, together 1,609 configurations of a ResNet-50."""

SOME = "some.json"
"""Lists the configurations where they are fewer."""

MISTAKEN = 6
"""Classes that an image is mistaken for."""

_LATENTS = 8


@dataclass(frozen=True, kw_only=True)
class MadeUpSettings:
    """What to make."""

    images: int = 50_000
    """In both splits together."""
    configurations: int = 1609
    """Of the run: 1,609 are the paper's spaces, fewer are spread evenly over them, the default among them."""
    classes: int = 1000
    """Of the network."""
    observed: int = 16
    """Configurations that policies choose among."""
    model: str = "resnet50"
    """Whose costs and features the run has; its weights are random."""
    seed: int = 0
    """Of everything that is made up."""
    out: Path = Path("runs/imagenet-size")
    """Folder of images/, weights.safetensors and run/; 10 GB at full settings."""

    def __post_init__(self) -> None:
        if not 2 <= self.observed <= 32:
            raise UserError(f"--observed must be from 2 to 32, not {self.observed}")
        if self.configurations < self.observed:
            raise UserError(f"--configurations must be at least --observed ({self.observed}), not {self.configurations}")
        if self.classes < 8:
            raise UserError(f"--classes must be at least 8, not {self.classes}")
        if not max(64, self.classes) <= self.images < 2**24:
            least = max(64, self.classes)
            raise UserError(f"--images must be at least {least}, one a class, and less than {2**24}, not {self.images}")


@dataclass(frozen=True, kw_only=True)
class World:
    """What is known of images and configurations before any outcome is drawn.

    Attributes:
        labels: (N,) true classes.
        mistaken: (N, 6) other classes, the likeliest mistake first.
        difficulty, scale: (N,) of the images.
        skill, suits: (K,) of the configurations: how good, and at which scale.
        seed: of what is drawn for single regions.
    """

    labels: np.ndarray
    mistaken: np.ndarray
    difficulty: np.ndarray
    scale: np.ndarray
    skill: np.ndarray
    suits: np.ndarray
    seed: int

    @classmethod
    def of(cls, labels: np.ndarray, macs: np.ndarray, default: int, classes: int, seed: int) -> World:
        """Draw it, for images of some labels and configurations of some costs."""
        stream, count = np.random.default_rng(seed), len(labels)
        offsets = np.argsort(stream.random((count, min(classes - 1, 64))), axis=1)[:, :MISTAKEN] + 1
        cost = np.log(macs / macs[default])
        handicap = np.abs(stream.normal(0, 0.8, len(macs)))
        handicap[default] = 0.0
        return cls(
            labels=labels,
            mistaken=(labels[:, None] + offsets) % classes,
            difficulty=stream.normal(0, 1, count),
            scale=stream.normal(0, 0.5, count),
            skill=0.8 - 0.35 * cost**2 - handicap,
            suits=np.where(np.arange(len(macs)) == default, 0.0, 0.6 * cost + stream.normal(0, 0.4, len(macs))),
            seed=seed,
        )

    def outcomes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, K) predicted classes, and float32 probabilities of the true class."""
        stream = np.random.default_rng([self.seed, 1, int(rows[0])])
        shape = len(rows), len(self.skill)
        noise = stream.standard_normal(shape, np.float32)
        misfit = (self.scale[rows, None] - self.suits) ** 2
        margin = 2.2 * (self.skill - self.difficulty[rows, None]) - misfit + 0.6 * noise
        p_true = (1 / (1 + np.exp(-margin))).astype(np.float32)
        which = np.minimum(stream.exponential(0.6, shape).astype(np.int64), MISTAKEN - 1)
        wrong = self.mistaken[rows[:, None], which]
        return np.where(margin > 0, self.labels[rows, None], wrong), p_true

    def probabilities(self, rows: np.ndarray, predicted: np.ndarray, p_true: np.ndarray, classes: int) -> np.ndarray:
        """(rows, columns, classes) float32, of which ``predicted`` is the largest and ``p_true`` that of the true class."""
        stream = np.random.default_rng([self.seed, 2, int(rows[0])])
        labels, place = self.labels[rows], np.ix_(np.arange(len(rows)), np.arange(predicted.shape[1]))
        is_wrong = predicted != labels[:, None]
        top = np.where(is_wrong, p_true + (1 - 2 * p_true) * stream.uniform(0.35, 0.9, p_true.shape), 0).astype(np.float32)
        rest = np.maximum(1 - p_true - top, 0)
        tail = stream.random((len(rows), 1, classes), np.float32) * (0.8 / classes)
        found = rest[:, :, None] * tail
        shares = stream.dirichlet(np.full(MISTAKEN, 2.0), len(rows)).astype(np.float32).clip(max=0.55)
        for position in range(MISTAKEN):
            found[(*place, self.mistaken[rows, position][:, None])] += 0.6 * rest * shares[:, position, None]
        found[(*place, predicted)] += top
        found[(*place, labels[:, None])] = p_true
        return found

    def features(self, rows: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """(rows, width) float32 by name."""
        stream = np.random.default_rng([self.seed, 3, int(rows[0])])
        hints = stream.standard_normal((len(rows), _LATENTS), np.float32)
        hints[:, 0] = self.difficulty[rows] + 0.7 * hints[:, 0]
        hints[:, 1] = 2 * self.scale[rows] + 0.5 * hints[:, 1]
        found = {}
        for name, width in widths.items():
            directions = np.random.default_rng([self.seed, crc32(name.encode())]).standard_normal((_LATENTS, width))
            values = stream.random((len(rows), width), np.float32)
            values += (0.3 * hints) @ directions.astype(np.float32)
            found[name] = values
        return found


def main(settings: MadeUpSettings) -> None:
    """Make images, network, outcomes and observations."""
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    network = load(settings.model, weights=None, classes=settings.classes)
    save_file(network.original.state_dict(), out / "weights.safetensors")
    _write_images(out / "images", settings)
    every = sorted({c for space in make_spaces(PAPER, network) for c in space} - {network.default})
    if settings.configurations <= len(every):
        kept = np.linspace(0, len(every) - 1, settings.configurations - 1).round().astype(int)
        chosen = [network.default, *(every[place] for place in kept)]
        (out / SOME).write_text(json.dumps([c.id for c in chosen]))
    collection = open_collection(run_settings(out, settings.model))
    union, source = collection.union, collection.source
    macs = network.costs.of_space(union, source.resolution)
    world = World.of(source.labels, macs, list(union).index(network.default), settings.classes, settings.seed)
    opened = _Opened.of(collection)
    opened.describe()
    _evaluate(world, opened.store)
    opened.outcomes()  # read and vouched for, as after an evaluation
    _observe(Run.open(collection.settings.out), source, world, settings, list(union))


def run_settings(out: Path, model: str) -> RunSettings:
    """As ``oracle.run`` takes them for what was made in ``out``."""
    return RunSettings(
        model=model,
        weights=str(out / "weights.safetensors"),
        dataset="imagefolder",
        data_dir=out / "images",
        space=str(out / SOME) if (out / SOME).exists() else PAPER,
        out=out / "run",
        device="cpu",
    )


def _write_images(folder: Path, settings: MadeUpSettings) -> None:
    """Pictures of one pixel, each of another colour, in a folder for each class."""
    for position in range(settings.images):
        place = folder / f"class_{position % settings.classes:05d}" / f"{position:07d}.ppm"
        if position < settings.classes:
            place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"P6 1 1 255\n" + position.to_bytes(3, "big"))


def _evaluate(world: World, store: OutcomesStore) -> None:
    for rows in tqdm(store.pending(), desc="outcomes", unit="region", file=sys.stderr):
        store.write(rows, *world.outcomes(rows), np.ones(len(rows), bool))


def _observe(
    run: Run, source: ImageSource, world: World, settings: MadeUpSettings, union: Sequence[Configuration]
) -> Observations:
    """Observations of the portfolio that :mod:`selector.train` would take, agreeing with the outcomes."""
    outcomes = run.outcomes()
    portfolio = observed_configurations(run, outcomes, settings.observed)
    columns = [union.index(c) for c in portfolio]
    predicted, p_true = (outcomes[name].values[:, columns] for name in ("predicted", "p_true"))
    del outcomes

    def fill(missing: Sequence[int], out: Path) -> None:
        distinct, side = stage_names(run.network, portfolio)[1], source.resolution
        shapes = look_at_batch(run.fast_network(), torch.zeros(1, 3, side, side), portfolio, distinct, 16)
        names = ("image", "stem", "grid", "behind", *distinct.values())
        behind = shapes["prefix"].shape[1] - shapes["stem"].shape[1]
        widths = {name: behind if name == "behind" else int(np.prod(shapes[name].shape[1:])) for name in names}
        for start in tqdm(missing, desc="observations", unit="block", file=sys.stderr):
            rows = np.arange(start, min(start + BLOCK, len(source.keys)))
            found = world.features(rows, widths)
            found["prefix"] = np.concatenate([found["stem"], found.pop("behind")], axis=1)
            found["grid"] = found["grid"].reshape(len(rows), *shapes["grid"].shape[1:])
            found["probabilities"] = world.probabilities(rows, predicted[rows], p_true[rows], settings.classes)
            kept = {name: halved(values) for name, values in found.items()}
            kept |= {"predicted": predicted[rows].astype(np.int32), "p_true": p_true[rows]}
            write_arrays(block_file(out, start), kept | {"readable": np.ones(len(rows), bool)})

    return observe(run, source, portfolio, run.observations, fill=fill, in_memory=0)


if __name__ == "__main__":
    run_command(main, MadeUpSettings, __doc__ or "")
