"""Stacked generalisation (Wolpert 1992): some configurations answer, boosted trees say which of their classes is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dynamic.errors import UserError
from selector.observation.images import Images, RecordedImages
from selector.observation.observations import Observations, in_parts
from selector.policies.asking import Asks
from selector.policies.base import Policy, State
from selector.policies.boosting import boosted
from selector.policies.forest import Forest
from selector.policies.gathering import gather

SURE = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3)
"""The dial: how likely the best class has to be for no further configuration to be run."""

RATE = 0.1
"""Of learning: forests of other policies take half of it, for a few dozen trees each."""

NAMED = 64
"""Most classes that are features of their own: how likely each is to be taken for another is learned class by class."""

_Judged = tuple[np.ndarray, np.ndarray]
"""Of each image how likely its best class is to be right, and the column of the configuration surest of it."""

_Judge = Callable[[np.ndarray, np.ndarray], _Judged]
"""Of what the next configuration answers, and on which images."""


class Stacking(Policy):
    """Runs configurations one after the other until the best of the classes they answered is likely enough to be right.

    Trees judge a class by what each configuration run so far thinks of it, how sure these are of their own, and the stem's
    features; there is a forest for each number of configurations run. The first configuration is the most accurate, each
    further one is right on most of the images on which none before it is. The configuration chosen is the one, of those
    run, that is surest of the class.

    Args:
        most: configurations that one image may run, at least 1.
        rounds: trees of each forest.
        groups: of features that are seen beside the answers, none of which is an answer; see
            :mod:`selector.observation.features`.
        seed: of the trees.
    """

    name = "stacking"
    from_views = True

    def __init__(self, most: int = 4, rounds: int = 400, groups: Sequence[str] = ("stem",), seed: int = 0) -> None:
        if most < 1:
            raise UserError(f"stacking runs at least one configuration: most must not be {most}")
        self.most, self.rounds, self.groups, self.seed = most, rounds, tuple(groups), seed

    @property
    def dials(self) -> Sequence[float]:
        """From "run all" to "run one on most images"."""
        return SURE

    def asks(self, default: int, layers: int) -> Asks:
        """Its features, then the answers of its configurations in their order."""
        return Asks(groups=self.groups, ladders=(tuple(self.order_),))

    def _fit(self, observed: Observations) -> None:
        self.order_ = _complementary(observed, self.most)
        self.forests_ = [Forest((self._learned(observed, count),)) for count in range(1, len(self.order_) + 1)]

    def _learned(self, observed: Observations, count: int) -> str:
        """The model that tells which class of the first ``count`` configurations is right."""
        features, right = self._candidates(observed, count)
        return boosted(features, right, self.rounds, self.seed, objective="binary", learning_rate=RATE)

    def _candidates(self, observed: Observations, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Features of every class that the first ``count`` configurations answer, once an image, and whether it is right."""
        features, right = [], []
        for part in in_parts(observed):
            images = RecordedImages(part)
            answers = np.stack([images.look(column) for column in self.order_[:count]], axis=1)
            classes = answers.argmax(axis=2)
            every = candidate_features(answers, gather(images, self.groups))
            for place in range(count):
                new = (classes[:, :place] != classes[:, place, None]).all(axis=1)
                features.append(every[new, place])
                right.append((classes[:, place] == part.labels)[new])
        return np.concatenate(features), np.concatenate(right)

    def decide_each(
        self, images: RecordedImages, dials: Sequence[float | None]
    ) -> Iterator[tuple[np.ndarray, RecordedImages]]:
        """See :meth:`Policy.decide_each`: answers are judged once."""
        if self.source is not None or not len(images):
            yield from super().decide_each(images, dials)
            return
        self._require(images)
        judge, asked, every = self._judge(images), images.fork(), np.arange(len(images))
        judged = [judge(asked.look(column, every), every) for column in self.order_]
        for dial in dials:
            forked = images.fork()
            remembered = iter(judged)

            def again(made: np.ndarray, rows: np.ndarray, of: Iterator[_Judged] = remembered) -> _Judged:
                likely, columns = next(of)
                return likely[rows], columns[rows]

            columns = self._climb(forked, self.dials[0] if dial is None else dial, again)
            yield self._checked(columns, len(images)), forked

    def _decide(self, images: Images, dial: float) -> np.ndarray:
        return self._climb(images, dial, self._judge(images))

    def _climb(self, images: Images, dial: float, judge: _Judge) -> np.ndarray:
        chosen, rows = np.empty(len(images), np.int64), np.arange(len(images))
        for count, (column, forest) in enumerate(zip(self.order_, self.forests_, strict=True), start=1):
            likely, chosen[rows] = judge(images.look(column, rows), rows)
            images.charge(forest.macs * count, rows)
            rows = rows[likely < dial]
            if not len(rows):
                break
        return chosen

    def _judge(self, images: Images) -> _Judge:
        """Asks for its features; is then given what one configuration after the other answers."""
        beside, columns = gather(images, self.groups), np.array(self.order_)
        answers: list[np.ndarray] = []  # of all images; rows that are left out are not asked for again

        def judge(made: np.ndarray, rows: np.ndarray) -> _Judged:
            answers.append(np.zeros((len(images), made.shape[1]), made.dtype))
            answers[-1][rows] = made
            looked = np.stack([each[rows] for each in answers], axis=1)
            likely = _likely(self.forests_[len(answers) - 1], looked, beside[rows])
            best = likely.max(axis=1)
            surest = np.where(likely == best[:, None], looked.max(axis=2), -1).argmax(axis=1)
            return best, columns[surest]

        return judge

    def _state(self) -> State:
        texts = {f"forest_{count}": forest.texts[0] for count, forest in enumerate(self.forests_, start=1)}
        return State({"order": self.order_}, texts=texts)

    def _restore(self, state: State) -> None:
        self.order_ = [int(column) for column in state.facts["order"]]
        self.forests_ = [Forest((state.texts[f"forest_{count}"],)) for count in range(1, len(self.order_) + 1)]

    def make_ready(self) -> None:
        """See :meth:`Policy.make_ready`."""
        for forest in self.forests_:
            forest.make_ready()


def candidate_features(answers: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """What trees see of the class that each configuration answers.

    Args:
        answers: (N, looked, classes) probabilities.
        beside: (N, features) that are the same for all of an image's classes.

    Returns:
        (N, looked, features) float32: the logarithm of what each configuration gives the class, whether it answers it, how
        many do; of each configuration's own answer the logarithm, the margin, the entropy; the class, one column each up to
        :data:`NAMED`; ``beside``.

    >>> print(candidate_features(np.array([[[0.8, 0.2], [0.4, 0.6]]]), np.empty((1, 0)))[0, 1].round(1))
    [-1.6 -0.5  0.   1.   1.  -0.2 -0.5  0.6  0.2  0.5  0.7  0.   1. ]
    """
    images, looked, count = answers.shape
    classes = answers.argmax(axis=2)
    logs = np.log(np.clip(answers, 1e-6, 1))
    given = np.take_along_axis(logs, np.repeat(classes[:, None], looked, axis=1), axis=2).transpose(0, 2, 1)
    agree = classes[:, :, None] == classes[:, None]
    first = answers.max(axis=2)
    others = np.where(np.arange(count) == classes[:, :, None], 0, answers).max(axis=2)
    own = np.concatenate([np.log(np.clip(first, 1e-6, 1)), first - others, -(answers * logs).sum(axis=2)], axis=1)
    parts = [given, agree, agree.sum(axis=2, keepdims=True)]
    parts += [np.broadcast_to(own[:, None], (images, looked, own.shape[1]))]
    if count <= NAMED:
        parts.append(classes[:, :, None] == np.arange(count))
    parts.append(np.broadcast_to(beside[:, None], (images, looked, beside.shape[1])))
    return np.concatenate(parts, axis=2, dtype=np.float32)


def _likely(forest: Forest, answers: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """(N, looked): how likely the class that each configuration answers is to be right; 0 where that is not finite."""
    features = candidate_features(answers, beside)
    raw = forest.raw(features.reshape(-1, features.shape[2])).reshape(answers.shape[:2])
    return np.where(answers.any(axis=2), 1 / (1 + np.exp(-raw)), 0)


def _complementary(observed: Observations, most: int) -> list[int]:
    """Columns in the order of what each adds to the images that one of them is right on; of equal ones the cheapest."""
    order: list[int] = []
    missed = np.ones(len(observed), dtype=bool)
    for _ in range(min(most, len(observed.portfolio))):
        rest = [column for column in range(len(observed.portfolio)) if column not in order]
        best = max(
            rest, key=lambda column: (np.count_nonzero(observed.correct[missed, column]), -observed.costs.whole[column])
        )
        order.append(best)
        missed &= ~observed.correct[:, best]
    return order
