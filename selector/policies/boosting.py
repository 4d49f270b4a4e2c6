"""Policies of gradient-boosted trees (LightGBM)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from selector.observation.images import Images
from selector.observation.observations import Observations
from selector.policies.base import State
from selector.policies.constant import preferred_columns
from selector.policies.forest import DEPTH, Forest, feature_count
from selector.policies.scoring import ScoringPolicy


def boosted(features: np.ndarray, target: np.ndarray, rounds: int, seed: int, **options: Any) -> str:
    """The text of a small model, for :class:`selector.policies.forest.Forest`; the same seed gives the same model."""
    return next(boosted_each(features, [target], rounds, seed, **options))


def boosted_each(
    features: np.ndarray, targets: Iterable[np.ndarray], rounds: int, seed: int, **options: Any
) -> Iterator[str]:
    """:func:`boosted` for one target after the other, whose features are sorted into bins only once."""
    import lightgbm as lgb  # here: who only decides does without
    import torch

    settings = {
        "learning_rate": 0.05,
        "num_leaves": 2**DEPTH - 1,
        "max_depth": DEPTH,
        "min_data_in_leaf": min(40, max(len(features) // 20, 1)),
        "feature_fraction": 0.3,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 63,
        "deterministic": True,
        "force_col_wise": True,  # the same trees as by rows, a fifth sooner
        "verbose": -1,
        "num_threads": torch.get_num_threads(),
        "seed": seed,
    }
    group, categories = options.pop("group", None), options.pop("categories", [])
    settings |= options
    data = None
    for target in targets:
        if data is None:
            data = lgb.Dataset(features, target, group=group, categorical_feature=categories)
        else:
            data.set_label(target)
        yield lgb.train(settings, data, num_boost_round=rounds).model_to_string()


class PreferredClassifier(ScoringPolicy):
    """Probability of being the preferred configuration: the plain reading of "learn the oracle's labels".

    Args:
        rounds: trees a class.
        groups, seed: see :class:`ScoringPolicy`.
    """

    name = "preferred_classifier"

    def __init__(self, rounds: int = 40, groups: Sequence[str] = ("prefix",), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds = rounds

    def _fit(self, observed: Observations) -> None:
        features = self._learned_from(observed)
        kept = observed.correct.any(axis=1)
        if not kept.any():
            kept = ~kept  # nothing is ever right: any label is as good
        target = preferred_columns(observed)
        classes = len(observed.portfolio)
        model = boosted(features[kept], target[kept], self.rounds, self.seed, objective="multiclass", num_class=classes)
        self._restore(State(texts={"model": model}))

    def _scores(self, images: Images) -> np.ndarray:
        raw = self.forest_.raw(self._features(images))
        powers = np.exp(raw - raw.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def _state(self) -> State:
        return State(texts={"model": self.forest_.texts[0]})

    def _restore(self, state: State) -> None:
        self.forest_ = Forest((state.texts["model"],))
        self.own_macs_ = self.forest_.macs


class Ranker(ScoringPolicy):
    """LambdaRank over the portfolio, an image a query; relevance grows with quality.

    Args:
        rounds: trees.
        groups, seed: see :class:`ScoringPolicy`.
    """

    name = "ranker"

    def __init__(self, rounds: int = 150, groups: Sequence[str] = ("stem",), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds = rounds

    def _fit(self, observed: Observations) -> None:
        features = self._learned_from(observed)
        images, columns = observed.correct.shape
        relevance = np.where(observed.correct, 2 + (observed.quality > 1.8), 0) + (observed.quality > 0.3)
        each = np.empty((images, columns, features.shape[1] + 1), np.float32)
        each[:, :, :-1], each[:, :, -1] = features[:, None], np.arange(columns)
        model = boosted(
            each.reshape(images * columns, -1),
            relevance.ravel().astype(int),
            self.rounds,
            self.seed,
            objective="lambdarank",
            group=np.full(images, columns),
            categories=[features.shape[1]],
            lambdarank_truncation_level=columns,
            feature_fraction=0.5,
        )
        self._restore(State({"columns": columns}, texts={"model": model}))

    def _scores(self, images: Images) -> np.ndarray:
        return self.forest_.raw(self._features(images))

    def _state(self) -> State:
        return State({"columns": self.columns_}, texts={"model": self.forest_.texts[0]})

    def _restore(self, state: State) -> None:
        """One forest a column, in which the last feature, the column, is decided already."""
        self.columns_ = int(state.facts["columns"])
        text = state.texts["model"]
        last = feature_count(text) - 1
        columns = [{last: float(column)} for column in range(self.columns_)]
        self.forest_ = Forest((text,) * self.columns_, columns, comparing=True)
        self.own_macs_ = self.forest_.macs


class Correctness(ScoringPolicy):
    """The probability that each configuration is right, one model a configuration.

    Args:
        rounds: trees a configuration.
        groups, seed: see :class:`ScoringPolicy`.
    """

    name = "correctness"

    def __init__(self, rounds: int = 60, groups: Sequence[str] = ("prefix",), seed: int = 0) -> None:
        super().__init__(groups, seed)
        self.rounds = rounds

    def _fit(self, observed: Observations) -> None:
        features = self._learned_from(observed)
        models = boosted_each(features, observed.correct.T, self.rounds, self.seed, objective="binary")
        self._restore(State(texts={f"model_{column:02d}": model for column, model in enumerate(models)}))

    def _scores(self, images: Images) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-self.forest_.raw(self._features(images)))))

    def _state(self) -> State:
        return State(texts={f"model_{column:02d}": text for column, text in enumerate(self.forest_.texts)})

    def _restore(self, state: State) -> None:
        self.forest_ = Forest([state.texts[name] for name in sorted(state.texts)])
        self.own_macs_ = self.forest_.macs
