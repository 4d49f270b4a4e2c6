"""Which features of learned policies pay: each fitted again without some, cross-validated on the label split alone.

    python -m benchmarks.features wide --out runs/features      # observations are kept in --out
    python -m benchmarks.features wide --out runs/features --policies correctness --images 2000   # a try

Gaps are shares of the way from the single best configuration (no features at all: 0 %) to the oracle; points are paired
differences of accuracy to all features, with a 95 % interval. MACs are those of the network's default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dynamic.command import run_command
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.reporting.text import aligned
from oracle.runs import Run
from selector.learning.fitting import folds
from selector.learning.observing import observe_run
from selector.observation.observations import Observations
from selector.observation.statistics import IMAGE_MACS, IMAGE_NAMES
from selector.policies import load_policies, make
from selector.policies.base import Policy
from selector.policies.running import run_recorded
from selector.policies.scoring import ScoringPolicy
from selector.scoring.gaps import closed_gap
from selector.shipped import SHIPPED

CHEAP = tuple(IMAGE_NAMES.index(name) for name in IMAGE_NAMES if name.startswith(("mean", "deviation", "edges")))
"""Of the statistics of pixels, those that one pass over octaves gives: no histogram, spectrum or extents."""


@dataclass(frozen=True, kw_only=True)
class FeaturesSettings:
    """What to fit."""

    run: Annotated[str, tyro.conf.Positional] = "wide"
    """Name of a shipped run, or the folder of another with policies."""
    out: Path = Path("runs/features")
    """Folder for observations."""
    policies: str = "neighbours,ranker,correctness,head,blend"
    """Comma-separated learned policies."""
    images: int | None = None
    """Label images; all unless given."""


def quadrants(grid: np.ndarray) -> np.ndarray:
    """(N, 8 * channels): mean and deviation of the four quarters of (N, channels, 6, 6), the second scale.

    >>> quadrants(np.ones((1, 2, 6, 6))).shape
    (1, 16)
    """
    count, channels, side, _ = grid.shape
    half = side // 2
    parts = grid.reshape(count, channels, 2, half, 2, half).swapaxes(3, 4).reshape(count, channels, 4, half * half)
    return np.concatenate([parts.mean(axis=3), parts.std(axis=3)], axis=2).reshape(count, -1).astype(np.float32)


def feature_sets(observed: Observations) -> dict[str, Observations]:
    """The same images with some features blank, or others in the place of the statistics of pixels."""
    image, grid = np.asarray(observed.image), np.asarray(observed.grid)
    cheap, nothing = np.zeros_like(image), np.zeros_like(image)
    cheap[:, CHEAP] = image[:, CHEAP]
    blank = np.zeros_like
    pixels = replace(
        observed, stem=blank(np.asarray(observed.stem)), prefix=blank(np.asarray(observed.prefix)), grid=blank(grid)
    )
    return {
        "all": observed,
        "pixels": pixels,
        "cheap pixels": replace(pixels, image=cheap),
        "network": replace(observed, image=nothing),
        "network, two scales": replace(observed, image=quadrants(grid)),
        "network, cheap pixels": replace(observed, image=cheap),
    }


def with_pixels(policy: Policy) -> Policy:
    """The policy with the statistics of pixels among what it asks. Raises UserError for one that asks no groups."""
    if not isinstance(policy, ScoringPolicy):
        raise UserError(f"{policy.name} does not learn from groups of features: choose policies that score configurations")
    return type(policy)(**policy.parameters() | {"groups": tuple(dict.fromkeys(("image", *policy.groups)))})


def cross_validated(policy: Policy, observed: Observations) -> tuple[np.ndarray, np.ndarray]:
    """(dials, N) whether each label image is answered right, and its MACs, by a policy that was not fitted on it."""
    right = np.zeros((len(policy.dials), len(observed)), dtype=bool)
    macs = np.zeros(right.shape)
    for fitted, held in folds(len(observed), 0):
        part = observed.rows(held)
        partly = policy.fresh().fit(observed.rows(fitted))
        for place, outcome in enumerate(run_recorded(partly, part, list(policy.dials))):
            right[place, held], macs[place, held] = outcome.predicted == part.labels, outcome.macs
    return right, macs


def label_images(settings: FeaturesSettings) -> Observations:
    """The label split under the portfolio of the run's policies."""
    run = Run.open(SHIPPED.get(settings.run, Path(settings.run)))
    portfolio = [Configuration.parse(name) for name in load_policies(run)[0].portfolio_]
    observed = observe_run(run, run.images(), run.outcomes(), portfolio, settings.out / run.name, splits=("label",))
    return observed if settings.images is None else observed.rows(np.arange(min(settings.images, len(observed))))


def main(settings: FeaturesSettings) -> None:
    """Fit every policy on every set of features; print a table."""
    learned = [with_pixels(policy) for policy in make(settings.policies) if policy.learned]
    observed = label_images(settings)
    base, oracle = observed.correct[:, observed.correct.mean(axis=0).argmax()], observed.correct.any(axis=1)
    sets, rows = feature_sets(observed), []
    for policy in learned:
        whole = None
        for name, seen in sets.items():
            right, macs = cross_validated(policy, seen)
            paid = macs.mean(axis=1) - (0 if "pixels" in name or name == "all" else IMAGE_MACS)
            gaps = np.array([closed_gap(each, np.asarray(base), np.asarray(oracle)) or 0.0 for each in right])
            best, cheap = int(gaps.argmax()), gaps[paid <= observed.costs.default]
            whole = right[best] if whole is None else whole
            lost = right[best].astype(float) - whole
            width = 1.96 * lost.std() / np.sqrt(len(lost))
            equal = paid[right.mean(axis=1) >= observed.correct[:, observed.default].mean()] / observed.costs.default
            cells = [policy.name, name, f"{gaps[best]:.1%}", f"{100 * lost.mean():+.2f} ± {100 * width:.2f}"]
            rows.append(
                [*cells, *(f"{found[0]:.1%}" if len(found) else "-" for found in (-np.sort(-cheap), np.sort(equal)))]
            )
            print(*rows[-1], sep="  ", flush=True)
    print(f"\n{settings.run}, {len(observed)} label images")
    print(aligned(["policy", "features", "gap", "points to all", "gap at the default's MACs", "MACs at its accuracy"], rows))


if __name__ == "__main__":
    run_command(main, FeaturesSettings, __doc__ or "")
