"""Policies that look at answers before they decide: cascades and averages of several configurations.

A cascade runs a cheap configuration, keeps its answer where its calibrated confidence reaches the rung's deferral
threshold, and otherwise defers to the next. Later rungs reuse what earlier ones computed, and earlier answers keep some
weight: what was paid for is not thrown away.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from oracle.evaluation.bounds import hull
from selector.observation.images import Images
from selector.observation.observations import Observations
from selector.observation.stored import columns_of
from selector.policies.answers import ROWS, consensus, fit_temperatures, tempered
from selector.policies.asking import Asks
from selector.policies.base import Policy, State
from selector.policies.sharing import once

SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
"""Of all images, those that a rung defers: which deferral thresholds are tried."""

STEPS = 49
"""Ladders with deferral thresholds that a cascade keeps, evenly spaced in MACs."""

KEPT = 0.25
"""Weight of the earlier rungs when a later one has answered."""


class Averaging(Policy):
    """The mean answer of the k configurations that are most accurate together: a costly reference, which chooses nothing.

    Its dial is k. The configuration it names is the one, of those it ran, that is surest of the mean's class.

    Args:
        most: largest k.
    """

    name = "averaging"
    learned = False

    def __init__(self, most: int = 8) -> None:
        self.most = most

    @property
    def dials(self) -> Sequence[float]:
        """k, from the largest."""
        return tuple(float(k) for k in range(min(self.most, len(getattr(self, "order_", range(self.most)))), 0, -1))

    def _fit(self, observed: Observations) -> None:
        self.temperatures_ = once(observed, "temperatures", lambda: fit_temperatures(observed))
        order: list[int] = []
        summed = np.zeros((len(observed), observed.probabilities.shape[2]), np.float32)  # of those in the order
        for _ in range(min(self.most, len(observed.portfolio))):
            rest = [column for column in range(len(observed.portfolio)) if column not in order]
            hits = np.zeros(len(rest), np.int64)
            for rows, answers in _calibrated(observed, self.temperatures_, rest):
                for place in range(len(rest)):
                    mean = (summed[rows] + answers[:, place]) / np.float32(len(order) + 1)
                    hits[place] += np.count_nonzero(mean.argmax(axis=1) == observed.labels[rows])
            order.append(rest[int(hits.argmax())])
            for rows, answers in _calibrated(observed, self.temperatures_, order[-1:]):
                summed[rows] += answers[:, 0]
        self.order_ = order

    def asks(self, default: int, layers: int) -> Asks:
        """The answers of its configurations, in their order."""
        return Asks(ladders=(tuple(self.order_),))

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        looked = self.order_[: max(int(dial), 1)]
        answers = np.stack([tempered(images.look(column), self.temperatures_[column]) for column in looked], axis=1)
        return consensus(answers.mean(axis=1), answers, np.array(looked))

    def _state(self) -> State:
        return State({"order": self.order_}, {"temperatures": self.temperatures_})

    def _restore(self, state: State) -> None:
        self.order_, self.temperatures_ = state.facts["order"], state.arrays["temperatures"]


class Cascade(Policy):
    """The cheapest first; defer to the next while the best class of the answers so far is less likely than the threshold.

    Ladders of one to ``rungs`` configurations and their deferral thresholds are searched on the label split; the dial walks
    along those that nothing cheaper beats, 0 the most accurate, 1 the cheapest.

    Args:
        rungs: most configurations an image may run.
        candidates: configurations that ladders are made of: those nearest to the static hull.
    """

    name = "cascade"

    def __init__(self, rungs: int = 3, candidates: int = 10) -> None:
        self.rungs, self.candidates = rungs, candidates

    @property
    def dials(self) -> Sequence[float]:
        """Evenly spaced in MACs."""
        return tuple(np.linspace(0, 1, STEPS).round(3).tolist())

    def _fit(self, observed: Observations) -> None:
        self.temperatures_ = once(observed, "temperatures", lambda: fit_temperatures(observed))
        columns, macs = self._near_hull(observed), observed.costs.whole
        every = [ladder for count in range(1, self.rungs + 1) for ladder in itertools.permutations(columns, count)]
        ladders = [ladder for ladder in every if (np.diff(macs[list(ladder)]) > 0).all()]
        answered = _climbed(observed, self.temperatures_, columns, ladders)
        self.steps_ = _best_steps([step for ladder in ladders for step in _ladder(answered, observed, ladder)])

    def _near_hull(self, observed: Observations) -> list[int]:
        """Columns by their distance below the static hull."""
        macs, accuracy = observed.costs.whole, observed.correct.mean(axis=0)
        corners = hull(macs, accuracy)
        below = np.interp(macs, macs[corners], accuracy[corners]) - accuracy
        return sorted(map(int, np.argsort(below, kind="stable")[: self.candidates]))

    def asks(self, default: int, layers: int) -> Asks:
        """The answers of its ladders, rung by rung."""
        return Asks(ladders=tuple(dict.fromkeys(tuple(step.columns) for step in self.steps_ if len(step.columns) > 1)))

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        step = self._step(dial)
        columns, last = np.array(step.columns), len(step.columns) - 1
        chosen = np.full(len(images), columns[0])  # who stays on the first rung has nothing to agree about
        rows, answers = np.arange(len(images)), np.empty(0, dtype=np.float32)
        for rung, column in enumerate(step.columns):
            made = tempered(images.look(column, rows), self.temperatures_[column])[:, None]
            answers = np.concatenate([answers, made], axis=1) if rung else made
            together = _blended(answers)
            going = together.max(axis=1) < step.thresholds[rung] if rung < last else np.zeros(len(rows), dtype=bool)
            if rung and not going.all():
                stays = ~going
                chosen[rows[stays]] = consensus(together[stays], answers[stays], columns[: rung + 1])
            if not going.any():
                break
            rows, answers = rows[going], answers[going]
        return chosen

    def _step(self, dial: float) -> _Step:
        """The ladder whose expected MACs are nearest to the dial's, between the dearest and the cheapest."""
        macs = np.array([step.macs for step in self.steps_])
        wanted = macs[0] + dial * (macs[-1] - macs[0])
        return self.steps_[int(np.abs(macs - wanted).argmin())]

    def _state(self) -> State:
        return State({"steps": [asdict(step) for step in self.steps_]}, {"temperatures": self.temperatures_})

    def _restore(self, state: State) -> None:
        self.steps_ = [_Step(**step) for step in state.facts["steps"]]
        self.temperatures_ = state.arrays["temperatures"]


@dataclass(frozen=True)
class _Step:
    """A ladder with its deferral thresholds, and what it promises on the label split."""

    macs: float
    accuracy: float
    columns: list[int]
    thresholds: list[float]


def _blended(answers: np.ndarray) -> np.ndarray:
    """(N, classes) of (N, rungs, classes): each rung's answer with :data:`KEPT` of what stood before."""
    together = answers[:, 0]
    for rung in range(1, answers.shape[1]):
        together = _joined(together, answers[:, rung])
    return np.asarray(together)


def _joined(before: np.ndarray, answer: np.ndarray) -> np.ndarray:
    return np.asarray(KEPT * before + (1 - KEPT) * answer)


def _best_steps(found: Sequence[_Step]) -> list[_Step]:
    """Those that nothing cheaper beats, from the dearest to the cheapest, about :data:`STEPS` of them."""
    best: list[_Step] = []
    for step in sorted(found, key=lambda step: (step.macs, -step.accuracy)):
        if not best or step.accuracy > best[-1].accuracy:
            best.append(step)
    macs = np.array([step.macs for step in best])
    wanted = np.linspace(macs[0], macs[-1], STEPS)
    return [best[i] for i in sorted({int(np.abs(macs - w).argmin()) for w in wanted}, reverse=True)]


_Climbed = dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]
"""By the columns so far: (N,) how sure the answer of these together is, float32, and whether it is right."""


def _calibrated(
    observed: Observations, temperatures: np.ndarray, columns: Sequence[int]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Some images after the other, and what some configurations answer, calibrated: (rows, columns, classes) float32."""
    probabilities = columns_of(observed.probabilities, columns)
    for start in range(0, len(observed), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, tempered(probabilities[rows], temperatures[columns, None])


def _climbed(
    observed: Observations, temperatures: np.ndarray, columns: Sequence[int], ladders: Sequence[tuple[int, ...]]
) -> _Climbed:
    """What every ladder answers where all images climb it to its top."""
    count = len(observed)
    found: _Climbed = {ladder: (np.empty(count, np.float32), np.empty(count, bool)) for ladder in ladders}
    for rows, answers in _calibrated(observed, temperatures, columns):
        for place, column in enumerate(columns):
            _climb((column,), answers[:, place], answers, columns, rows, observed.labels[rows], found)
    return found


def _climb(
    ladder: tuple[int, ...],
    together: np.ndarray,
    answers: np.ndarray,
    columns: Sequence[int],
    rows: slice,
    labels: np.ndarray,
    found: _Climbed,
) -> None:
    """Note what a ladder answers, and every one that goes on from it."""
    if ladder not in found:
        return
    sure, right = found[ladder]
    place = together.argmax(axis=1)
    sure[rows], right[rows] = together[np.arange(len(place)), place], place == labels
    for position, column in enumerate(columns):
        if (*ladder, column) in found:
            _climb((*ladder, column), _joined(together, answers[:, position]), answers, columns, rows, labels, found)


def _ladder(answered: _Climbed, observed: Observations, ladder: tuple[int, ...]) -> list[_Step]:
    """A ladder under every combination of deferral thresholds tried."""
    costs = observed.costs
    each = [answered[ladder[: rung + 1]] for rung in range(len(ladder))]
    right = [hits for _, hits in each]
    sure = [confidence for confidence, _ in each[:-1]]
    paid = [float(costs.paths[list(ladder[: rung + 1])].any(axis=0) @ costs.macs) for rung in range(len(ladder))]
    tried = []
    for thresholds in itertools.product(*(np.quantile(confidence, SHARES) for confidence in sure)):
        reached = np.ones(len(observed), dtype=bool)
        hits, macs = right[0].astype(bool), np.full(len(observed), paid[0])
        for rung, threshold in enumerate(thresholds):
            reached &= sure[rung] < threshold
            hits = np.where(reached, right[rung + 1], hits)
            macs[reached] = paid[rung + 1]
        tried.append(_Step(float(macs.mean()), float(hits.mean()), list(map(int, ladder)), list(map(float, thresholds))))
    return tried
