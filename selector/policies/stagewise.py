"""Choose layer by layer: A from what the stem shows, B from what the chosen A made, and so on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynamic.attributes.registry import attributes
from selector.observation.images import Images, RecordedImages
from selector.observation.observations import Observations
from selector.policies.asking import Asks
from selector.policies.base import Policy, State
from selector.policies.boosting import boosted_each
from selector.policies.forest import Forest, lifted


@dataclass(frozen=True)
class _Node:
    """A fork: before a layer, one of the columns that lead here, and a branch for each option of the layer."""

    layer: int
    column: int
    branches: list[_Node]

    @classmethod
    def of(cls, facts: dict[str, Any]) -> _Node:
        """Read back what ``asdict`` made."""
        return cls(facts["layer"], facts["column"], [cls.of(branch) for branch in facts["branches"]])


class Stagewise(Policy):
    """At every fork of the portfolio's tree of options, take the branch of highest expected reward.

    Learned from the last layer to the first, as in fitted Q-iteration: a branch's reward is what the choices below it,
    already learned, bring on the label images: right or wrong, less the price of the MACs. Estimates within the forks
    are cross-fitted in two halves, so that a branch is not praised for what was fitted to it.

    Args:
        rounds: trees a branch.
        prices: the dial, see :data:`selector.policies.scoring.PRICES`; each is learned on its own.
        seed: of the halves and the trees.
    """

    name = "stagewise"

    def __init__(self, rounds: int = 30, prices: Sequence[float] = (0.0, 0.05, 0.2), seed: int = 0) -> None:
        self.rounds, self.prices, self.seed = rounds, tuple(prices), seed

    @property
    def dials(self) -> Sequence[float]:
        """The prices."""
        return self.prices

    def _fit(self, observed: Observations) -> None:
        options = [
            [tuple(c.options(name)[layer] for name in attributes()) for c in observed.portfolio]
            for layer in range(len(observed.portfolio[0].stride))
        ]
        self.tree_ = _branches(options, list(range(len(observed.portfolio))), 0)
        texts: dict[str, str] = {}
        stream = np.random.default_rng(self.seed)
        half = stream.permutation(len(observed)) % 2
        images = RecordedImages(observed)
        relative = observed.costs.whole / observed.costs.default
        rewards = np.stack([observed.correct - price * relative for price in self.prices])
        raised = np.array([(self.prices[0] - price) * relative for price in self.prices])
        self._learn(self.tree_, images, rewards, raised, half, "", texts)
        self._take(texts)

    def _learn(
        self,
        node: _Node,
        images: Images,
        rewards: np.ndarray,
        raised: np.ndarray,
        half: np.ndarray,
        name: str,
        texts: dict[str, str],
    ) -> np.ndarray:
        """Learn the forks below ``node`` into ``texts``; returns the (prices, N) reward of following it from here on.

        All prices and branches of a fork are learned together, so that what its layer reads is sorted into bins once. Behind
        a branch without further forks a price takes the same from every image: its trees are those of the first price, a
        constant apart.

        Args:
            node: where to begin.
            images: of which the layers' inputs are asked.
            rewards: (prices, N, K) of each configuration.
            raised: (prices, K) what lies between a configuration's rewards and those at the first price.
            half: (N,) 0 or 1.
            name: of ``node``.
            texts: receives the models.
        """
        branches = node.branches
        if not branches:
            return np.asarray(rewards[:, :, node.column])
        followed = [self._learn(b, images, rewards, raised, half, f"{name}_{i}", texts) for i, b in enumerate(branches)]
        if len(branches) == 1:
            return followed[0]
        below = np.stack(followed, axis=2)
        features = images.stage(node.layer, node.column, np.arange(len(images)))
        ends = np.array([not any(_forks(branch)) for branch in branches])
        apart = np.where(ends, raised[:, [branch.column for branch in branches]], 0)
        each = [(p, b) for p, b in np.ndindex(apart.shape) if p == 0 or not ends[b]]
        model_of = {pair: each.index(pair if pair in each else (0, pair[1])) for pair in np.ndindex(apart.shape)}
        places = np.array([*model_of.values()]).reshape(apart.shape)
        crossed = np.empty_like(below)
        for part in (0, 1):
            models = self._boosted(features[half != part], [below[p, half != part, b] for p, b in each])
            found = Forest(models).raw(features[half == part])
            crossed[:, half == part] = (found[:, places] + apart).swapaxes(0, 1)
        made = self._boosted(features, [below[p, :, b] for p, b in each])
        for (p, b), place in model_of.items():
            texts[f"{p}{name}_{b}"] = lifted(made[place], float(apart[p, b]))
        return np.take_along_axis(below, crossed.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]

    def _boosted(self, features: np.ndarray, targets: Sequence[np.ndarray]) -> list[str]:
        return list(boosted_each(features, targets, self.rounds, self.seed))

    def _take(self, texts: Mapping[str, str]) -> None:
        """One forest a fork, by its name: a tree's output for each branch.

        A path passes at most as many forks as there are layers; the trees of the costliest price bound what it pays.
        """
        forks: dict[str, list[str]] = {}
        for name in sorted(texts, key=lambda name: [int(part) for part in name.split("_")]):
            forks.setdefault(name.rpartition("_")[0], []).append(texts[name])
        self.forests_ = {name: Forest(models) for name, models in forks.items()}
        prices = range(len(self.prices))
        each = [sum(f.macs for name, f in self.forests_.items() if name.split("_")[0] == str(i)) for i in prices]
        self.own_macs_ = max(each, default=0.0)

    def make_ready(self) -> None:
        """The trees of all forks, of which one image passes a few."""
        for forest in self.forests_.values():
            forest.make_ready()

    def asks(self, default: int, layers: int) -> Asks:
        """What layers read at the forks."""
        return Asks(stages=tuple(_forks(self.tree_)))

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        number = int(np.abs(np.array(self.prices) - dial).argmin())
        chosen = np.empty(len(images), dtype=np.int64)
        self._follow(self.tree_, images, np.arange(len(images)), str(number), chosen)
        images.charge(self.own_macs_)
        return chosen

    def _follow(self, node: _Node, images: Images, rows: np.ndarray, name: str, chosen: np.ndarray) -> None:
        branches = node.branches
        if not branches:
            chosen[rows] = node.column
            return
        taken = np.zeros(len(rows), dtype=np.int64)
        if len(branches) > 1 and len(rows):
            features = images.stage(node.layer, node.column, rows)
            taken = self.forests_[name].raw(features).argmax(axis=1)
        for i, branch in enumerate(branches):
            self._follow(branch, images, rows[taken == i], f"{name}_{i}", chosen)

    def _state(self) -> State:
        texts = {f"m{n}_{branch}": text for n, f in self.forests_.items() for branch, text in enumerate(f.texts)}
        return State({"tree": asdict(self.tree_)}, texts=texts)

    def _restore(self, state: State) -> None:
        self.tree_ = _Node.of(state.facts["tree"])
        self._take({name[1:]: text for name, text in state.texts.items()})


def _forks(node: _Node) -> Iterator[tuple[int, int]]:
    """Layer and column of every node with more than one branch."""
    if len(node.branches) > 1:
        yield node.layer, node.column
    for branch in node.branches:
        yield from _forks(branch)


def _branches(options: Sequence[Sequence[object]], columns: list[int], layer: int) -> _Node:
    """The tree of options from ``layer`` on."""
    if layer == len(options):
        return _Node(layer, columns[0], [])
    groups: dict[object, list[int]] = {}
    for column in columns:
        groups.setdefault(options[layer][column], []).append(column)
    return _Node(layer, columns[0], [_branches(options, members, layer + 1) for members in groups.values()])
