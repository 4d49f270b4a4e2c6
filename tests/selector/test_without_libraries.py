"""Deciding without LightGBM, scikit-learn and torch gives what these give."""

from __future__ import annotations

import subprocess
import sys

import lightgbm as lgb
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies import load_policy
from selector.policies.blend import Blend
from selector.policies.boosting import Ranker, boosted
from selector.policies.forest import Forest, feature_count, lifted
from selector.policies.head import Head
from selector.policies.head_training import HeadNet
from selector.policies.scoring import Neighbours
from selector.shipped import SHIPPED

TREES = ("preferred_classifier", "ranker", "correctness", "blend", "stagewise")


def expected(text: str, features: np.ndarray) -> np.ndarray:
    return np.asarray(lgb.Booster(model_str=text).predict(features, raw_score=True, num_threads=1)).reshape(
        len(features), -1
    )


def _centred(raw: np.ndarray) -> np.ndarray:
    """Without what is the same for all columns."""
    return np.asarray(raw - raw.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("run", list(SHIPPED))
def test_shipped_trees_are_lightgbms(run: str, name: str) -> None:
    policy = load_policy(SHIPPED[run] / "policies" / name)
    trees = policy._parts[0] if isinstance(policy, Blend) else policy
    forests = trees.forests_.values() if name == "stagewise" else [trees.forest_]  # type: ignore[attr-defined]
    for forest in forests:
        # Half-rounded values, some of them exactly at thresholds' neighbours.
        count = feature_count(forest.texts[0])
        features = (2 * np.random.default_rng(0).normal(size=(500, count))).astype(np.float16).astype(np.float64)
        parts = []
        for text, known in zip(forest.texts, forest.known or [{}] * len(forest.texts), strict=True):
            for position, value in known.items():
                features[:, position] = value
            parts.append(expected(text, features))
        found, raw = forest.raw(features), np.concatenate(parts, axis=1)
        if forest.comparing:
            found, raw = _centred(found), _centred(raw)
        np.testing.assert_allclose(found, raw, rtol=0, atol=1e-12)


@pytest.mark.parametrize("by", [1 / 3, -1e-9, 12345.678])
def test_lightgbm_reads_a_lifted_model_too(by: float) -> None:
    """It looks for trees where the header says that they begin; leaves with other digits have another length."""
    stream = np.random.default_rng(0)
    features = stream.normal(size=(400, 5))
    text = boosted(features, (features[:, 0] > 0).astype(float), 8, 0, objective="regression")
    np.testing.assert_allclose(expected(lifted(text, by), features), expected(text, features) + by, rtol=0, atol=1e-9)
    np.testing.assert_allclose(Forest((lifted(text, by),)).raw(features), expected(text, features) + by, rtol=0, atol=1e-9)


def test_values_at_a_threshold_go_where_lightgbm_sends_them() -> None:
    stream = np.random.default_rng(0)
    features = stream.integers(0, 4, size=(400, 3)).astype(np.float64)
    text = boosted(features, features[:, 0] * 2 + (features[:, 1] > 1), 20, 0)
    thresholds = [float(v) for line in text.splitlines() if line.startswith("threshold=") for v in line[10:].split()]
    assert thresholds
    tried = np.stack([np.nextafter(t, t + way) if way else t for t in thresholds[:40] for way in (-1, 0, 1)])
    rows = np.repeat(tried[:, None], 3, axis=1)
    # Threads that share trees among themselves add them in another order; a wrong leaf is off by much more.
    np.testing.assert_allclose(Forest((text,)).raw(rows), expected(text, rows), rtol=0, atol=1e-12)


def test_categories_and_single_leaves() -> None:
    stream = np.random.default_rng(1)
    features = np.concatenate([stream.normal(size=(600, 2)), stream.integers(0, 5, size=(600, 1))], axis=1)
    text = boosted(features, np.isin(features[:, 2], (1, 3)) + 0.1 * features[:, 0], 20, 0, categories=[2])
    assert "num_cat=0" not in text.split("Tree=")[1]
    forest = Forest((text,) * 5, [{2: float(category)} for category in range(5)])
    for category in range(5):
        features[:, 2] = category
        np.testing.assert_allclose(forest.raw(features)[:, category], expected(text, features)[:, 0], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="a category that is not the same in every row"):
        Forest((text,)).raw(features)
    constant = boosted(features, np.ones(600), 3, 0)
    assert (Forest((constant,)).raw(features[:4]) == expected(constant, features[:4])).all()


def test_a_ranker_scores_pairs_of_image_and_column(ruled: tuple[Observations, Observations]) -> None:
    label, test = (part.rows(np.arange(200)) for part in ruled)
    ranker = Ranker(rounds=20).fit(label)
    features = ranker._features(RecordedImages(test))
    pairs = np.concatenate(
        [np.repeat(features, 4, axis=0), np.tile(np.arange(4.0), len(features))[:, None].astype(np.float32)], axis=1
    )
    raw = expected(ranker.forest_.texts[0], pairs).reshape(len(features), 4)
    found = ranker._scores(RecordedImages(test))
    np.testing.assert_allclose(_centred(found), _centred(raw), rtol=0, atol=1e-12)
    assert np.ptp(_centred(raw), axis=1).max() > 0.01  # columns differ
    assert (found.argmax(axis=1) == raw.argmax(axis=1)).all()


@pytest.mark.parametrize("run", list(SHIPPED))
def test_the_heads_convolutions_are_torchs(run: str) -> None:
    head = load_policy(SHIPPED[run] / "policies" / "head")
    assert isinstance(head, Head)
    stream = np.random.default_rng(0)
    maps = (stream.normal(size=(9, len(head.map_mean_), 6, 6)) * head.map_scale_[:, None, None] * 2).astype(np.float32)
    vectors = (head.mean_ + 4 * head.scale_ * stream.normal(size=(9, len(head.mean_)))).astype(np.float32)  # some too far
    net = HeadNet(maps.shape[1], vectors.shape[1], len(head.weights_["out.bias"]), head.width).eval()
    net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in head.weights_.items()})
    with torch.no_grad():
        made = net(*map(torch.from_numpy, head._standardised(maps, vectors))).numpy()
    (found,) = head._graph({"maps": maps, "vectors": vectors})
    np.testing.assert_allclose(found, made, rtol=1e-4, atol=1e-4)
    (alone,) = head._graph({"maps": maps[:1], "vectors": vectors[:1]})
    np.testing.assert_allclose(alone, found[:1], rtol=1e-5, atol=1e-5)


def test_neighbours_are_scikit_learns(ruled: tuple[Observations, Observations]) -> None:
    label, test = ruled
    policy = Neighbours(k=9, kept=None, groups=("stem",)).fit(label)
    asked = (policy._features(RecordedImages(test)) - policy.mean_) / policy.scale_
    index = NearestNeighbors(n_neighbors=9, algorithm="brute").fit(policy.known_.astype(np.float64))
    near = index.kneighbors(asked, return_distance=False)
    np.testing.assert_allclose(policy._scores(RecordedImages(test)), label.correct[near].mean(axis=1))


def test_kept_neighbours_stand_for_all_label_images(ruled: tuple[Observations, Observations]) -> None:
    label, test = ruled
    everything = Neighbours(k=9, kept=None).fit(label)
    policy = Neighbours(k=9, kept=40, near=3, seed=1).fit(label)
    assert policy.known_.shape == (40, everything.known_.shape[1])
    index = NearestNeighbors(algorithm="brute").fit(everything.known_.astype(np.float64))
    near = index.kneighbors(policy.known_.astype(np.float64), 9, return_distance=False)
    means = label.correct[near].mean(axis=1)
    np.testing.assert_allclose(policy.correct_, means, rtol=0, atol=1e-7)
    asked = (policy._features(RecordedImages(test)) - policy.mean_) / policy.scale_
    index = NearestNeighbors(algorithm="brute").fit(policy.known_.astype(np.float64))
    near = index.kneighbors(asked, 3, return_distance=False)
    np.testing.assert_allclose(policy._scores(RecordedImages(test)), means[near].mean(axis=1), rtol=0, atol=1e-6)


def test_neighbours_of_earlier_versions_ask_all_that_they_know() -> None:
    policy = load_policy(SHIPPED["matched"] / "policies" / "neighbours")
    assert isinstance(policy, Neighbours)
    assert policy.kept is None or len(policy.known_) == policy.kept


def test_of_equally_near_neighbours_the_first_count(ruled: tuple[Observations, Observations]) -> None:
    label = ruled[0].rows(np.repeat(np.arange(10), 10))
    policy = Neighbours(k=5, kept=None, groups=("stem",)).fit(label)
    scores = policy._scores(RecordedImages(label))
    assert (scores == label.correct.reshape(10, 10, -1)[:, :5].mean(axis=1).repeat(10, axis=0)).all()


def test_deciding_imports_no_large_library() -> None:
    """Loaded and deciding, every shipped policy does without what only training needs."""
    code = """
import sys
import numpy as np
from dynamic.configuration import Configuration
from selector.observation.costs import Costs
from selector.observation.images import LiveImages
from selector.policies import load_policy
from selector.shipped import SHIPPED

class Session:
    macs = np.zeros(2)
    def logits(self, configuration, rows): return np.eye(10, dtype=np.float32)[rows] * 3
    def look(self, kind, layer, configuration, rows):
        channels = (3, 32, 96, 192, 384)[layer]  # the picture, then branch and shortcut of each stage
        return np.ones((len(rows), channels, 6, 6) if kind == "gridded" else (len(rows), 2 * channels), np.float32)

for folder in sorted((SHIPPED["matched"] / "policies").iterdir()):
    policy = load_policy(folder)
    portfolio = [Configuration.parse(name) for name in policy.portfolio_]
    count = len(portfolio)
    costs = Costs.from_arrays({
        "macs": np.arange(1, count + 1), "paths": np.eye(count, dtype=bool), "stages": np.zeros((5, count, count), bool),
        "stem": np.zeros(count, bool), "prefix": np.zeros(count, bool), "default": np.array(5),
    })
    images = np.random.default_rng(0).normal(size=(2, 3, 96, 96)).astype(np.float32)
    policy.decide(LiveImages(Session(), images, portfolio, portfolio[0], costs))
large = ("torch", "torchvision", "onnx", "lightgbm", "sklearn", "scipy", "pandas", "pyarrow", "xarray")
print([name for name in large if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
