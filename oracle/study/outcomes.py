"""One space's outcomes on one split, and the cases that every table is made of (sections 4.1 and 3.4); JSON-ready.

Everything is on the test split; what is chosen (portfolios, lists of configurations) is chosen on the label split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from oracle.evaluation import bounds
from oracle.evaluation.estimates import resampled, share
from oracle.evaluation.paired import paired_difference


@dataclass(frozen=True)
class SpaceOutcomes:
    """One space's outcomes on one split.

    Attributes:
        space: the columns.
        default: column of the default configuration.
        predicted: (images, configurations) class indices.
        correct: (images, configurations) bool.
        quality: (images, configurations) float32 (paper, eq. 1).
        macs: (configurations,) int64 of one image.
        sides: (images,) true object side in pixels, None where unknown.
        keys: (images,) stable names of the images; None in outcomes that no set holds.
    """

    space: Space
    default: int
    predicted: np.ndarray
    correct: np.ndarray
    quality: np.ndarray
    macs: np.ndarray
    sides: np.ndarray | None
    keys: np.ndarray | None = None

    @classmethod
    def of(cls, outcomes: xr.Dataset, space: Space, default: Configuration, split: str = "test") -> SpaceOutcomes:
        """Select a space and a split. Raises UserError where the split has no images."""
        part = outcomes.isel(image=outcomes["split"].values == split).sel(configuration=space.ids)
        if not part.sizes["image"]:
            raise UserError(f"no readable image in the {split} split: nothing to report on")
        predicted, labels = part["predicted"].values, part["label"].values
        return cls(
            space,
            space.ids.index(default.id),
            predicted,
            predicted == labels[:, None],
            bounds.quality(predicted, part["p_true"].values, labels),
            part["macs"].values,
            part["side"].values if "side" in part.coords else None,
            part["image"].values,
        )

    def rows(self, kept: np.ndarray) -> SpaceOutcomes:
        """The same of only some images."""
        sides, keys = (None if values is None else values[kept] for values in (self.sides, self.keys))
        arrays = self.predicted[kept], self.correct[kept], self.quality[kept]
        return SpaceOutcomes(self.space, self.default, *arrays, self.macs, sides, keys)

    def columns(self, kept: Sequence[int]) -> SpaceOutcomes:
        """The same with only some configurations, which must include the default."""
        return SpaceOutcomes(
            Space(self.space.name, [self.space[i] for i in kept]),
            list(kept).index(self.default),
            self.predicted[:, kept],
            self.correct[:, kept],
            self.quality[:, kept],
            self.macs[kept],
            self.sides,
            self.keys,
        )


CASES = ("static", "worst", "median", "best")


def cases(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """Static, worst, median and best case and the mean configuration's accuracy (section 4.1)."""
    reached = bounds.cases(outcomes.quality, outcomes.correct)
    shares = {
        "static": outcomes.correct[:, outcomes.default],
        "worst": reached.worst,
        "median": reached.median,
        "best": reached.best,
    }
    return {name: share(right) for name, right in shares.items()} | {
        "mean": float(outcomes.correct.mean()),
        "images": len(outcomes.correct),
        "configurations": len(outcomes.space),
    }


def gains(before: SpaceOutcomes, after: SpaceOutcomes) -> dict[str, Any]:
    """How much each case rose on the same images, as fractions, with paired bootstrap intervals and p-values."""
    first, second = (bounds.cases(o.quality, o.correct) for o in (before, after))
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in ("worst", "median", "best")}
    pairs["static"] = before.correct[:, before.default], after.correct[:, after.default]
    pairs["mean"] = before.correct.mean(axis=1), after.correct.mean(axis=1)
    return {
        name: resampled(np.mean, new.astype(float) - old.astype(float)) | {"p": paired_difference(new, old)["p"]}
        for name, (old, new) in pairs.items()
    }
