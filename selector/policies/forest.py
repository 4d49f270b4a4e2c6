"""Gradient-boosted trees as LightGBM stores them, evaluated without LightGBM, whose own call costs a millisecond."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dynamic.compiled.models import Node, small_model
from dynamic.compiled.runtimes import Graph, small_graph

DEPTH = 4
"""Of every tree."""

_ROWS = 4096
"""Images whose features are held in double precision at once."""

_CATEGORICAL = 1
"""Bit of a decision's type."""


@dataclass(frozen=True)
class Forest:
    """Sums of trees, one for each model.

    Comparisons and sums are in double precision, as LightGBM's. It is made ready when it first decides, which takes a tenth
    of a second, so that loading policies that are never asked costs nothing.

    Args:
        texts: of each model, as ``lightgbm.Booster.model_to_string`` writes it.
        known: for each text the values of features that are the same in every row, by position: they are not read.
        comparing: whether models of one text are only compared with each other: a tree that asks for nothing known adds the
            same to all of them, and is left out.

    Raises:
        ValueError: when it first decides, of a text that is something else.
    """

    texts: Sequence[str]
    known: Sequence[Mapping[int, float]] = ()
    comparing: bool = False

    @property
    def macs(self) -> float:
        """One comparison a level of each tree, counted as a MAC."""
        return float(sum(text.count("\nTree=") for text in self.texts) * DEPTH)

    def raw(self, features: np.ndarray) -> np.ndarray:
        """(N, outputs) float64 sums of leaves of (N, features); a model of several classes has an output for each."""
        if len(features) > _ROWS:
            return np.concatenate([self.raw(features[at : at + _ROWS]) for at in range(0, len(features), _ROWS)])
        (sums,) = self._graph({"features": np.ascontiguousarray(features, dtype=np.float64)})
        return sums

    def make_ready(self) -> None:
        """What else the first decision does. Raises ValueError as that would."""
        _ = self._graph

    @cached_property
    def _graph(self) -> Graph:
        return small_graph(_model(self.texts, self.known, self.comparing))


@dataclass
class _Ensemble:
    """The attributes of ONNX's TreeEnsemble."""

    tree_roots: list[int] = field(default_factory=list)
    nodes_featureids: list[int] = field(default_factory=list)
    nodes_splits: list[float] = field(default_factory=list)
    nodes_truenodeids: list[int] = field(default_factory=list)
    nodes_trueleafs: list[int] = field(default_factory=list)
    nodes_falsenodeids: list[int] = field(default_factory=list)
    nodes_falseleafs: list[int] = field(default_factory=list)
    leaf_targetids: list[int] = field(default_factory=list)
    leaf_weights: list[float] = field(default_factory=list)

    def add(self, tree: _Tree, target: int) -> None:
        """One more tree, whose leaves count for output ``target``."""
        self.tree_roots.append(len(self.nodes_splits))
        root = tree.resolved(0 if tree.features else ~0)
        if root < 0:  # a single leaf is written as a node whose sides are the same one
            place = self._node(0, 0.0)
            self._child("true", root, tree, target, place)
            self.nodes_falseleafs[place], self.nodes_falsenodeids[place] = 1, self.nodes_truenodeids[place]
            return
        waiting = {root: self._node(tree.features[root], tree.thresholds[root])}
        while waiting:
            node, place = waiting.popitem()
            for side, child in (("true", tree.left[node]), ("false", tree.right[node])):
                child = tree.resolved(child)
                if child >= 0:
                    waiting[child] = self._node(tree.features[child], tree.thresholds[child])
                self._child(side, child, tree, target, place, waiting.get(child))

    def _node(self, feature: int, threshold: float) -> int:
        self.nodes_featureids.append(feature)
        self.nodes_splits.append(threshold)
        for name in ("nodes_truenodeids", "nodes_trueleafs", "nodes_falsenodeids", "nodes_falseleafs"):
            getattr(self, name).append(0)
        return len(self.nodes_splits) - 1

    def _child(self, side: str, child: int, tree: _Tree, target: int, place: int, node: int | None = None) -> None:
        if node is None:
            self.leaf_targetids.append(target)
            self.leaf_weights.append(tree.leaves[~child])
        getattr(self, f"nodes_{side}leafs")[place] = int(node is None)
        getattr(self, f"nodes_{side}nodeids")[place] = len(self.leaf_weights) - 1 if node is None else node


@dataclass
class _Tree:
    """One tree of a model's text: inner nodes by position, leaves as ``~position``."""

    features: list[int]
    thresholds: list[float]
    categorical: list[bool]
    left: list[int]
    right: list[int]
    leaves: list[float]
    categories: list[set[int]]
    known: Mapping[int, float]

    @classmethod
    def of(cls, lines: Mapping[str, str], known: Mapping[int, float]) -> _Tree:
        """Read one tree's entries."""

        def numbers(name: str, kind: type) -> list[Any]:
            return [kind(value) for value in lines.get(name, "").split()]

        bounds, words = numbers("cat_boundaries", int), numbers("cat_threshold", int)
        return cls(
            features=numbers("split_feature", int),
            thresholds=numbers("threshold", float),
            categorical=[bool(kind & _CATEGORICAL) for kind in numbers("decision_type", int)],
            left=numbers("left_child", int),
            right=numbers("right_child", int),
            leaves=numbers("leaf_value", float),
            categories=[
                {32 * at + bit for at, word in enumerate(words[start:end]) for bit in range(32) if word >> bit & 1}
                for start, end in itertools.pairwise(bounds)
            ],
            known=known,
        )

    @property
    def asks_known(self) -> bool:
        """Whether a known feature decides anything in it."""
        return not self.known.keys().isdisjoint(self.features)

    def resolved(self, node: int) -> int:
        """The first node or leaf from ``node`` on that known features do not decide; ValueError of unknown categories."""
        while node >= 0 and (self.features[node] in self.known or self.categorical[node]):
            if self.features[node] not in self.known:
                raise ValueError("a category that is not the same in every row")
            value = self.known[self.features[node]]
            if self.categorical[node]:
                left = int(value) in self.categories[int(self.thresholds[node])]
            else:
                left = value <= self.thresholds[node]
            node = self.left[node] if left else self.right[node]
        return node


def feature_count(text: str) -> int:
    """How many features a model reads. Raises ValueError where the text is something else."""
    line = next((line for line in text.splitlines() if line.startswith("max_feature_idx=")), "")
    return int(line.removeprefix("max_feature_idx=")) + 1


def lifted(text: str, by: float) -> str:
    """A model of one output whose sums are larger by a constant: it goes into the leaves of the first tree."""
    if by == 0:
        return text
    head, line, rest = text.partition("\nleaf_value=")
    leaves, end, rest = rest.partition("\n")
    larger = " ".join(repr(float(leaf) + by) for leaf in leaves.split())
    facts, sizes, trees = head.partition("\ntree_sizes=")  # in bytes: LightGBM looks for trees where these say
    first = re.match(r"\d+", trees)
    assert first is not None, "a model without the sizes of its trees"
    size = int(first.group()) + len(larger) - len(leaves)
    return facts + sizes + str(size) + trees[first.end() :] + line + larger + end + rest


def _trees(text: str, known: Mapping[int, float]) -> tuple[int, list[_Tree]]:
    """How many outputs a model has, and its trees, which take turns among them."""
    head, *parts = text.split("\nTree=")
    facts = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    blocks = [dict(line.split("=", 1) for line in part.splitlines() if "=" in line) for part in parts]
    return int(facts["num_tree_per_iteration"]), [_Tree.of(block, known) for block in blocks]


def _model(texts: Sequence[str], known: Sequence[Mapping[int, float]], comparing: bool) -> bytes:
    """An ONNX model of all trees: (N, features) to (N, outputs), both double."""
    ensemble, outputs = _Ensemble(), 0
    models = [_trees(text, given) for text, given in zip(texts, known or [{}] * len(texts), strict=True)]
    alike = zip(*(trees for _, trees in models), strict=True) if comparing else ()
    # Of trees that tell nothing apart one is kept: there is no empty ensemble.
    telling = {number for number, trees in enumerate(alike) if any(tree.asks_known for tree in trees)} or {0}
    for each, trees in models:
        for number, tree in enumerate(trees):
            if not comparing or number in telling:
                ensemble.add(tree, outputs + number % each)
        outputs += each
    entries: dict[str, Any] = vars(ensemble)
    for name in ("nodes_splits", "leaf_weights"):
        entries[name] = np.array(entries[name], dtype=np.float64)
    modes = np.zeros(len(ensemble.nodes_featureids), dtype=np.uint8)  # smaller or equal goes to the true side
    node = Node(
        operation="TreeEnsemble",
        inputs=["features"],
        outputs=["sums"],
        domain="ai.onnx.ml",
        attributes={
            "n_targets": outputs,
            "aggregate_function": 1,  # sum
            "post_transform": 0,  # none
            "nodes_modes": modes,
            **entries,
        },
    )
    return small_model([node], {"features": np.float64}, {"sums": np.float64})
