"""Another package's algorithm selector, run on the exported ASlib scenario: asf-lib's pairwise classifier.

Install it with the project's extra ``compare``; without it the benchmark leaves its row out and says so.
"""

from __future__ import annotations

import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from dynamic.resources import cpu_count
from selector.interchange import aslib
from selector.observation.images import Images
from selector.observation.observations import Observations
from selector.observation.statistics import IMAGE_NAMES
from selector.policies.base import Policy
from selector.policies.gathering import gather


def available() -> bool:
    """Whether asf-lib is installed with all that it imports, wanted or not."""
    return all(find_spec(name) for name in ("asf", "arff", "yaml", "sksurv", "clingo"))


class AsfPairwise(Policy):
    """Cost-sensitive pairwise random forests (asf-lib): the configuration that wins most duels.

    Args:
        trees: a duel.
        seed: of the forests.
    """

    name = "asf_pairwise"

    def __init__(self, trees: int = 40, seed: int = 0) -> None:
        self.trees, self.seed = trees, seed

    def _fit(self, observed: Observations) -> None:
        from asf.scenario.aslib_reader import read_aslib_scenario
        from asf.selectors import PairwiseClassifier

        with tempfile.TemporaryDirectory() as folder:
            aslib.export(observed, "label", Path(folder))
            features, performance, *_, maximize, _ = read_aslib_scenario(folder, add_running_time_features=False)
        self.columns_ = list(features.columns)
        forest = partial(
            RandomForestClassifier,
            n_estimators=self.trees,
            min_samples_leaf=20,
            random_state=self.seed,
            n_jobs=cpu_count(),  # the same forest, whatever the number
        )
        self.model_: Any = PairwiseClassifier(partial(_Forest, forest), maximize=maximize)
        self.model_.fit(features, performance)
        duels = len(self.portfolio_) * (len(self.portfolio_) - 1) / 2
        self.own_macs_ = duels * self.trees * np.log2(max(len(observed) / 20, 2))

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        values = gather(images, ("image", "stem"))
        names = [*IMAGE_NAMES, *(f"stem_{i:03d}" for i in range(values.shape[1] - len(IMAGE_NAMES)))]
        table = pd.DataFrame(values, columns=names, index=range(len(values)))[self.columns_]
        images.charge(self.own_macs_)
        chosen = self.model_.predict(table)
        positions = {name: column for column, name in enumerate(self.portfolio_)}
        return np.array([positions[chosen[row][0][0]] for row in range(len(values))])


class _Forest:
    """What asf-lib asks of a model, around one of scikit-learn's."""

    def __init__(self, forest: Any) -> None:
        self._forest = forest()

    def fit(self, features: pd.DataFrame, target: pd.Series, sample_weight: pd.Series | None = None) -> None:
        """Where one side always wins, the forest has one class."""
        self._forest.fit(features, target, sample_weight=sample_weight)

    def predict(self, features: pd.DataFrame) -> np.ndarray:
        """Whether the first of the two wins."""
        return np.asarray(self._forest.predict(features))
