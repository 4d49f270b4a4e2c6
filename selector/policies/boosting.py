"""Policies of gradient-boosted trees (LightGBM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightgbm as lgb
import numpy as np
import torch

from selector.observation.images import Images, RecordedImages
from selector.observation.observations import Observations
from selector.policies.base import State
from selector.policies.constant import preferred_columns
from selector.policies.scoring import ScoringPolicy

_DEPTH = 4


def boosted(features: np.ndarray, target: np.ndarray, rounds: int, seed: int, **options: Any) -> lgb.Booster:
    """A small model; the same seed gives the same model."""
    settings = {
        "learning_rate": 0.05,
        "num_leaves": 2**_DEPTH - 1,
        "max_depth": _DEPTH,
        "min_data_in_leaf": min(40, max(len(features) // 20, 1)),
        "feature_fraction": 0.3,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 63,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
        "num_threads": torch.get_num_threads(),
        "seed": seed,
    }
    data = lgb.Dataset(features, target, group=options.pop("group", None), categorical_feature=options.pop("categories", []))
    return lgb.train(settings | options, data, num_boost_round=rounds)


def predicted(model: lgb.Booster, features: np.ndarray) -> np.ndarray:
    """What a model says, with as many threads as torch takes."""
    return np.asarray(model.predict(features, num_threads=torch.get_num_threads()))


def tree_macs(models: Sequence[lgb.Booster]) -> float:
    """One comparison a level of each tree, counted as a MAC."""
    return float(sum(model.num_trees() for model in models) * _DEPTH)


class PreferredClassifier(ScoringPolicy):
    """Probability of being the preferred configuration: the plain reading of "learn the oracle's labels".

    Args:
        rounds: trees a class.
        groups, seed: see :class:`ScoringPolicy`.
    """

    name = "preferred_classifier"

    def __init__(self, rounds: int = 40, groups: Sequence[str] = ("image", "prefix"), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds = rounds

    def _fit(self, observed: Observations) -> None:
        features = self._features(RecordedImages(observed))
        kept = observed.correct.any(axis=1)
        if not kept.any():
            kept = ~kept  # nothing is ever right: any label is as good
        target = preferred_columns(observed)
        classes = len(observed.portfolio)
        self.model_ = boosted(
            features[kept], target[kept], self.rounds, self.seed, objective="multiclass", num_class=classes
        )
        self.own_macs_ = tree_macs([self.model_])

    def _scores(self, images: Images) -> np.ndarray:
        return predicted(self.model_, self._features(images))

    def _state(self) -> State:
        return State(texts={"model": self.model_.model_to_string()})

    def _restore(self, state: State) -> None:
        self.model_ = lgb.Booster(model_str=state.texts["model"])
        self.own_macs_ = tree_macs([self.model_])


class Ranker(ScoringPolicy):
    """LambdaRank over the portfolio, an image a query; relevance grows with quality.

    Args:
        rounds: trees.
        groups, seed: see :class:`ScoringPolicy`.
    """

    name = "ranker"

    def __init__(self, rounds: int = 150, groups: Sequence[str] = ("image", "stem"), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds = rounds

    def _fit(self, observed: Observations) -> None:
        features = self._features(RecordedImages(observed))
        images, columns = observed.correct.shape
        relevance = np.where(observed.correct, 2 + (observed.quality > 1.8), 0) + (observed.quality > 0.3)
        self.columns_ = columns
        self.model_ = boosted(
            self._pairs(features),
            relevance.ravel().astype(int),
            self.rounds,
            self.seed,
            objective="lambdarank",
            group=np.full(images, columns),
            categories=[features.shape[1]],
            lambdarank_truncation_level=columns,
            feature_fraction=0.5,
        )
        self._measure()

    def _measure(self) -> None:
        self.own_macs_ = tree_macs([self.model_]) * self.columns_

    def _pairs(self, features: np.ndarray) -> np.ndarray:
        """(N * K, features + 1): every image with every column."""
        columns = np.tile(np.arange(self.columns_, dtype=np.float32), len(features))
        return np.concatenate([np.repeat(features, self.columns_, axis=0), columns[:, None]], axis=1)

    def _scores(self, images: Images) -> np.ndarray:
        features = self._features(images)
        raw = predicted(self.model_, self._pairs(features)).reshape(len(features), self.columns_)
        return raw - raw.mean(axis=1, keepdims=True)

    def _state(self) -> State:
        return State({"columns": self.columns_}, texts={"model": self.model_.model_to_string()})

    def _restore(self, state: State) -> None:
        self.columns_ = int(state.facts["columns"])
        self.model_ = lgb.Booster(model_str=state.texts["model"])
        self._measure()


class Correctness(ScoringPolicy):
    """The probability that each configuration is right, one model a configuration.

    Args:
        rounds: trees a configuration.
        groups, seed: see :class:`ScoringPolicy`.
    """

    name = "correctness"

    def __init__(self, rounds: int = 60, groups: Sequence[str] = ("image", "prefix"), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds = rounds

    def _fit(self, observed: Observations) -> None:
        features = self._features(RecordedImages(observed))
        self.models_ = [boosted(features, right, self.rounds, self.seed, objective="binary") for right in observed.correct.T]
        self.own_macs_ = tree_macs(self.models_)

    def _scores(self, images: Images) -> np.ndarray:
        features = self._features(images)
        return np.stack([predicted(model, features) for model in self.models_], axis=1)

    def _state(self) -> State:
        return State(texts={f"model_{i:02d}": model.model_to_string() for i, model in enumerate(self.models_)})

    def _restore(self, state: State) -> None:
        self.models_ = [lgb.Booster(model_str=state.texts[name]) for name in sorted(state.texts)]
        self.own_macs_ = tree_macs(self.models_)
