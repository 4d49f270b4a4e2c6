"""The paper's experiments as functions of outcomes (sections 4.1 to 4.6), and ours beside them; JSON-ready results.

Everything is on the test split; what is chosen (portfolios, lists of configurations) is chosen on the label split.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import bootstrap, spearmanr

from dynamic.configuration import ATTRIBUTES, Configuration, Space
from dynamic.errors import UserError
from oracle.evaluation import bounds

RESAMPLES = 1000
"""Of every bootstrap interval (95 %, percentiles, images drawn with replacement)."""


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
    """

    space: Space
    default: int
    predicted: np.ndarray
    correct: np.ndarray
    quality: np.ndarray
    macs: np.ndarray
    sides: np.ndarray | None

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
        )

    def rows(self, kept: np.ndarray) -> SpaceOutcomes:
        """The same of only some images."""
        sides = None if self.sides is None else self.sides[kept]
        arrays = self.predicted[kept], self.correct[kept], self.quality[kept]
        return SpaceOutcomes(self.space, self.default, *arrays, self.macs, sides)

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
        )


def share(right: np.ndarray) -> dict[str, Any]:
    """A fraction with its Wilson interval."""
    return {"value": float(right.mean()), "interval": list(bounds.interval(right))}


def resampled(statistic: Any, *samples: np.ndarray) -> dict[str, Any]:
    """A statistic of paired samples with its bootstrap interval; no interval where it is undefined."""
    value = float(statistic(*samples))
    if len(samples[0]) < 2:
        return {"value": value, "interval": None}
    result = bootstrap(
        samples, statistic, n_resamples=RESAMPLES, method="percentile", paired=True, vectorized=False, rng=0
    ).confidence_interval
    known = np.isfinite([result.low, result.high]).all()
    return {"value": value, "interval": [float(result.low), float(result.high)] if known else None}


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
    """How much each case rose on the same images, as fractions, with paired bootstrap intervals."""
    first, second = (bounds.cases(o.quality, o.correct) for o in (before, after))
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in ("worst", "median", "best")}
    pairs["static"] = before.correct[:, before.default], after.correct[:, after.default]
    pairs["mean"] = before.correct.mean(axis=1), after.correct.mean(axis=1)
    return {name: resampled(np.mean, new.astype(float) - old.astype(float)) for name, (old, new) in pairs.items()}


def agreement(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """How many different classes an image's configurations predict (section 4.2, Fig. 2)."""
    unique = bounds.unique_predictions(outcomes.predicted)
    numbers, counts = np.unique(unique, return_counts=True)
    return {
        "histogram": {str(n): float(c / len(unique)) for n, c in zip(numbers, counts, strict=True)},
        "mean": float(unique.mean()),
        "all_agree": share(unique == 1),
    }


def portfolio(label: SpaceOutcomes, test: SpaceOutcomes, size: int = 32) -> dict[str, Any]:
    """Best case of the greedy portfolio of 1, 2, ... configurations (section 4.2, Fig. 3)."""
    chosen = bounds.greedy_portfolio(label.correct, label.macs, size)
    return {
        "configurations": [label.space[i].id for i in chosen],
        "accuracy": bounds.portfolio_curve(test.correct, chosen),
        "whole_space": float(test.correct.any(axis=1).mean()),
        "chosen_on": "label",
    }


def subset_columns(space: Space, default: Configuration, layers: Sequence[int]) -> list[int]:
    """Columns of the configurations that differ from the default only in ``layers``."""
    others = [layer for layer in range(len(default.stride)) if layer not in layers]
    return [
        position
        for position, c in enumerate(space)
        if all(getattr(c, name)[layer] == getattr(default, name)[layer] for name in ATTRIBUTES for layer in others)
    ]


def subsets(outcomes: SpaceOutcomes, default: Configuration) -> list[dict[str, Any]]:
    """Best case and volatility when only some layers are dynamic (section 4.3, Fig. 4), from the full outcomes.

    Volatility: best minus worst case, the share of images on which the choice decides.
    """
    count = len(default.stride)
    rows = []
    for size in range(1, count + 1):
        for layers in itertools.combinations(range(count), size):
            part = outcomes.columns(subset_columns(outcomes.space, default, layers))
            reached = bounds.cases(part.quality, part.correct)
            rows.append(
                {
                    "layers": "".join("ABCDEF"[layer] for layer in layers),
                    "configurations": len(part.space),
                    "best": share(reached.best),
                    "worst": share(reached.worst),
                    "volatility": share(reached.best & ~reached.worst),
                }
            )
    return rows


def greedy_list(label: SpaceOutcomes, size: int) -> list[Configuration]:
    """The greedy portfolio filled up to ``size`` with the most accurate other configurations, on the label split."""
    chosen = bounds.greedy_portfolio(label.correct, label.macs, size)
    order = bounds.cost_order(label.macs)
    ranked = order[np.argsort(-label.correct.sum(axis=0)[order], kind="stable")]
    return [label.space[i] for i in [*chosen, *(int(i) for i in ranked if i not in chosen)][:size]]


def combine(name: str, lists: Sequence[Sequence[Configuration]], default: Configuration) -> Space:
    """All combinations of configurations that vary different attributes, and the default (section 4.4, Table 3)."""
    combined = []
    for parts in itertools.product(*lists):
        options = {
            attribute: next(
                (getattr(c, attribute) for c in parts if getattr(c, attribute) != getattr(default, attribute)), None
            )
            or getattr(default, attribute)
            for attribute in ATTRIBUTES
        }
        combined.append(Configuration(**options))
    return Space(name, [*combined, default])


def preferences(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """Preferred options of each layer over the solvable images, with their mean (section 4.5, Figs. 5 and 7)."""
    solvable = np.asarray(outcomes.correct.any(axis=1))
    chosen = bounds.preferred(outcomes.quality, outcomes.macs)[solvable]
    configurations = list(outcomes.space)
    varied = [name for name in ATTRIBUTES if len({getattr(c, name) for c in configurations}) > 1]
    layers = []
    for layer in range(len(configurations[0].stride)):
        entry: dict[str, Any] = {}
        for name in varied:
            options = np.array([getattr(c, name)[layer] for c in configurations], dtype=float)
            taken, counts = np.unique(options[chosen], return_counts=True)
            entry[name] = {
                "shares": {f"{o:g}": float(n / max(len(chosen), 1)) for o, n in zip(taken, counts, strict=True)},
                "mean": resampled(np.mean, options[chosen]) if len(chosen) else None,
            }
        layers.append(entry)
    return {
        "solvable": int(solvable.sum()),
        "images": len(solvable),
        "static": share(outcomes.correct[:, outcomes.default]),
        "best": share(solvable),
        "layers": layers,
    }


def by_side(outcomes: SpaceOutcomes, bins: int = 4) -> list[dict[str, Any]]:
    """:func:`preferences` in bins of the true object side with about equally many images (section 4.5, on scenes)."""
    assert outcomes.sides is not None
    order = np.argsort(outcomes.sides, kind="stable")
    rows = []
    for part in np.array_split(order, min(bins, len(order))):
        chosen, sides = outcomes.rows(part), outcomes.sides[part]
        rows.append({"sides": [float(sides.min()), float(sides.max())]} | preferences(chosen))
    return rows


def receptive_field_correlations(outcomes: SpaceOutcomes, curve: np.ndarray, resamples: int = 200) -> dict[str, Any]:
    """How well the receptive field explains which configurations do well (section 4.5).

    Scalar: distance of a configuration's final receptive field from the default's (logarithms). Growth: distance of the
    whole curve of receptive fields behind layers A, B, C, D. Both are ranked against the configurations' mean quality;
    where true sides are known, the preferred configuration's receptive field behind each layer also against them.

    Args:
        outcomes: of one space.
        curve: (configurations, layers) receptive field behind each layer's stage, in input pixels.
        resamples: bootstrap samples of images.
    """
    logs = np.log2(curve)
    distance = logs - logs[outcomes.default]
    predictors = {
        "scalar": -np.abs(distance[:, -1]),
        "growth": -np.linalg.norm(distance, axis=1),
    }
    stream = np.random.default_rng(0)
    images = len(outcomes.quality)
    draws = [outcomes.quality.mean(axis=0)]
    draws += [outcomes.quality[stream.integers(images, size=images)].mean(axis=0) for _ in range(resamples)]
    result: dict[str, Any] = {
        "configurations": {
            name: _correlations([_spearman(values, scores) for scores in draws]) for name, values in predictors.items()
        }
    }
    result["configurations"]["growth_minus_scalar"] = _correlations(
        [_spearman(predictors["growth"], scores) - _spearman(predictors["scalar"], scores) for scores in draws]
    )
    if outcomes.sides is not None:
        solvable = outcomes.correct.any(axis=1)
        chosen = bounds.preferred(outcomes.quality, outcomes.macs)[solvable]
        sides = outcomes.sides[solvable]
        result["sides"] = {}
        for layer in range(logs.shape[1]):
            preferred = logs[chosen, layer]
            rows = [np.arange(len(sides))] + [stream.integers(len(sides), size=len(sides)) for _ in range(resamples)]
            result["sides"]["ABCDEF"[layer]] = _correlations([_spearman(preferred[r], sides[r]) for r in rows])
    return result


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")  # a constant has no ranks
    return float(spearmanr(first, second).statistic)


def _correlations(values: Sequence[float]) -> dict[str, Any]:
    """The first value with the interval of the others."""
    if not np.isfinite(values).all():
        return {"value": None if not np.isfinite(values[0]) else values[0], "interval": None}
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {"value": values[0], "interval": [float(low), float(high)]}


def efficiency(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """The cheapest configuration of each image that predicts what the default, or the best case, does (section 4.6).

    Images that no configuration gets right run the cheapest of all, and count as wrong.
    """
    order = bounds.cost_order(outcomes.macs)
    rows = np.arange(len(outcomes.correct))
    default = int(outcomes.macs[outcomes.default])
    oracle = bounds.oracle_choice(outcomes.quality, outcomes.correct, outcomes.macs)
    targets = {
        "same_as_default": outcomes.predicted[:, outcomes.default],
        "same_as_best": outcomes.predicted[rows, oracle],
    }
    result: dict[str, Any] = {"default_macs": default, "static": share(outcomes.correct[:, outcomes.default])}
    for name, target in targets.items():
        chosen = order[np.argmax(outcomes.predicted[:, order] == target[:, None], axis=1)]
        macs = outcomes.macs[chosen].astype(float)
        result[name] = {
            "accuracy": share(outcomes.correct[rows, chosen]),
            "macs": resampled(np.mean, macs),
            "times_fewer": resampled(lambda cost: default / np.mean(cost), macs),
        }
    result["cloud"] = {
        "macs": outcomes.macs.tolist(),
        "accuracy": [round(float(value), 5) for value in outcomes.correct.mean(axis=0)],
    }
    result["cheaper_as_good"] = _cheaper_as_good(outcomes)
    return result


def _cheaper_as_good(outcomes: SpaceOutcomes) -> dict[str, Any]:
    """The cheapest static configuration that is at least as accurate on the test split (a bound, not a choice)."""
    accuracy = outcomes.correct.mean(axis=0)
    good = np.flatnonzero(accuracy >= accuracy[outcomes.default])
    position = int(good[np.argmin(outcomes.macs[good])])
    return {"id": outcomes.space[position].id, "macs": int(outcomes.macs[position]), "accuracy": float(accuracy[position])}
