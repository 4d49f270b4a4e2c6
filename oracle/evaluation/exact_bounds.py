"""Worst and best case and the efficient variants of section 4.6, exactly, without evaluating the whole matrix.

An image is done for the best case at its first right configuration, for the worst case at its first wrong one, and for the
cheapest agreeing configuration at the first match in order of MACs. Undecided images go through the configurations in waves
of 1, 2, 4, ... configurations, each wave one walk that shares prefixes. The order is learned on a pilot of a few images,
which are evaluated in full: greedily, the configuration that decides most images a MAC comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamic.configuration import Configuration, Space
from dynamic.models import LoadedNetwork
from dynamic.network import DynamicNetwork
from oracle.data.sources import Batch, ImageSource
from oracle.evaluation import bounds
from oracle.evaluation.evaluate import WalkSize, outcomes_of
from oracle.evaluation.jobs import threads_of_walks
from oracle.settings import DTYPES

_UNKNOWN = -2

Run = Callable[[np.ndarray, Sequence[int]], np.ndarray]
"""Rows and columns to predicted classes, (rows, columns)."""


@dataclass
class Order:
    """In which order configurations are tried, as columns."""

    best: list[int]
    worst: list[int]


@dataclass(frozen=True)
class Found:
    """Exact results of some images; (images,) each. Configurations are columns.

    Attributes:
        static, worst, best: whether default, worst and best case are right.
        as_default: the cheapest configuration that predicts what the default does.
        as_best: the cheapest that is right; the cheapest of all where none is.
        macs: multiply-accumulates spent on these images together.
    """

    static: np.ndarray
    worst: np.ndarray
    best: np.ndarray
    as_default: np.ndarray
    as_best: np.ndarray
    macs: int


def greedy_order(decides: np.ndarray, macs: np.ndarray) -> list[int]:
    """Columns, those first that decide most images a MAC that none before them did; again from the start once all are.

    Args:
        decides: (images, configurations) bool.
        macs: (configurations,) of one image.
    """
    left = [int(i) for i in bounds.cost_order(macs)]
    undecided = np.ones(len(decides), bool)
    ordered: list[int] = []
    while left:
        gains = decides[undecided][:, left].sum(axis=0) / macs[left]
        position = int(np.argmax(gains))
        if gains[position] == 0:
            if undecided.all():  # what remains decides nothing
                return ordered + left
            undecided[:] = True
            continue
        column = left.pop(position)
        ordered.append(column)
        undecided &= ~decides[:, column]
    return ordered


def find_bounds(
    run: Run, labels: np.ndarray, macs: np.ndarray, default: int, order: Order, cost: Callable[[Sequence[int]], int]
) -> Found:
    """Exact bounds of some images, running as little as the order allows.

    Args:
        run: evaluates some of the images under some columns.
        labels: (images,) true classes.
        macs: (configurations,) of one image.
        default: its column.
        order: in which configurations are tried.
        cost: MACs of one image under some columns together.
    """
    images, columns = len(labels), len(macs)
    predicted = np.full((images, columns), _UNKNOWN, np.int64)
    spent = 0

    def evaluate(rows: np.ndarray, wanted: Sequence[int]) -> None:
        nonlocal spent
        # Rows that already know a column run it again only if others of the wave need it: one walk for all.
        new = [column for column in wanted if (predicted[rows, column] == _UNKNOWN).any()]
        rows = rows[(predicted[np.ix_(rows, np.array(new, int))] == _UNKNOWN).any(axis=1)]
        if len(rows) and new:
            predicted[np.ix_(rows, np.array(new, int))] = run(rows, new)
            spent += len(rows) * cost(new)

    def search(ordered: Sequence[int], undecided: Callable[[Sequence[int]], np.ndarray]) -> None:
        """Try ``ordered`` in waves; ``undecided`` tells, from the columns tried so far, which rows go on."""
        start, size = 0, 1
        while start < len(ordered) and len(rows := np.flatnonzero(undecided(ordered[:start]))):
            evaluate(rows, ordered[start : start + size])
            start, size = start + size, 2 * size

    everyone = np.arange(images)
    evaluate(everyone, [default])
    search(order.best, lambda _: ~(predicted == labels[:, None]).any(axis=1))
    best = (predicted == labels[:, None]).any(axis=1)
    search(order.worst, lambda _: ~((predicted != _UNKNOWN) & (predicted != labels[:, None])).any(axis=1))
    worst = (predicted == labels[:, None]).all(axis=1)
    cheap = [int(i) for i in bounds.cost_order(macs)]

    def cheapest_match(target: np.ndarray, matchable: np.ndarray) -> np.ndarray:
        search(cheap, lambda tried: matchable & ~(predicted[:, list(tried)] == target[:, None]).any(axis=1))
        matches = predicted[:, cheap] == target[:, None]
        return np.where(matches.any(axis=1), np.array(cheap)[np.argmax(matches, axis=1)], cheap[0])

    return Found(
        static=predicted[:, default] == labels,
        worst=worst,
        best=best,
        as_default=cheapest_match(predicted[:, default].copy(), everyone >= 0),
        as_best=cheapest_match(labels, best),
        macs=spent,
    )


@dataclass(frozen=True, kw_only=True)
class Search:
    """How one space is searched.

    Attributes:
        space: the configurations.
        size: what runs at once.
        order: in which configurations are tried.
    """

    space: Space
    size: WalkSize
    order: Order


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What came out of a region.

    Attributes:
        rows: (images,) of the source.
        readable: (images,) bool.
        found: by search, of the readable ones.
        problems: what was wrong with the others, by key.
    """

    rows: np.ndarray
    readable: np.ndarray
    found: list[Found]
    problems: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class BoundsJob:
    """Exact bounds of regions, whose images are read once for all spaces; see :class:`oracle.evaluation.jobs.Job`.

    Attributes:
        searches: one a space.
        threads, dtype: as in :class:`oracle.evaluation.evaluate.OutcomesJob`.
    """

    searches: tuple[Search, ...]
    threads: int
    dtype: str

    @property
    def configurations(self) -> list[Configuration]:
        """Of all spaces."""
        return [configuration for search in self.searches for configuration in search.space]

    def opened(
        self, network: LoadedNetwork, source: ImageSource, device: str, cores: int | None = None
    ) -> Callable[[np.ndarray, Batch], Bounds]:
        """See :class:`oracle.evaluation.jobs.Job`."""
        fast, resolution = network.for_inference(device, DTYPES[self.dtype]), source.resolution

        def of_search(search: Search) -> Callable[[Tensor, np.ndarray], Found]:
            space = search.space
            run_on = runner(fast, search, self.threads, cores)
            macs, default = network.costs.of_space(list(space), resolution), space.ids.index(network.default.id)

            def cost(columns: Sequence[int]) -> int:
                return network.costs.shared([space[i] for i in columns], resolution)

            def found(images: Tensor, labels: np.ndarray) -> Found:
                return find_bounds(run_on(images, labels), labels, macs, default, search.order, cost)

            return found

        searches = [of_search(search) for search in self.searches]

        def compute(rows: np.ndarray, batch: Batch) -> Bounds:
            images, labels = readable_of(batch, device, self.dtype), source.labels[rows[batch.readable]]
            found = [search(images, labels) for search in searches]
            return Bounds(rows=rows, readable=batch.readable, found=found, problems=batch.problems)

        return compute


def readable_of(batch: Batch, device: str, dtype: str) -> Tensor:
    """The readable images of a batch, as a network takes them."""
    images = batch.images[torch.from_numpy(batch.readable)]
    return images.to(device, DTYPES[dtype], memory_format=torch.channels_last)


def runner(
    network: DynamicNetwork, search: Search, threads: int, cores: int | None = None
) -> Callable[[Tensor, np.ndarray], Run]:
    """A function from images and their labels to one that evaluates some of them under some columns.

    Args:
        network: as :meth:`DynamicNetwork.for_inference` made it.
        search: names columns, and says what runs at once.
        threads, cores: see :func:`oracle.evaluation.jobs.threads_of_walks`.
    """
    space, size, pool = search.space, search.size, threads_of_walks(search.size.walks, threads, cores)

    def of_images(images: Tensor, labels: np.ndarray) -> Run:
        there = torch.from_numpy(labels).to(images.device)

        def run(chosen: np.ndarray, columns: Sequence[int]) -> np.ndarray:
            wanted: list[Configuration] = [space[i] for i in columns]
            index = torch.from_numpy(chosen).to(images.device)
            parts = index.tensor_split(max(1, min(size.walks, len(index)), -(-len(index) // size.images)))

            def evaluated(part: Tensor) -> np.ndarray:
                return outcomes_of(network, images[part], there[part], wanted, size.rows)[0]

            return np.concatenate(list(pool.map(evaluated, parts)))

        return run

    return of_images
