"""What a table or figure of the study is: one module that defines ``PART``, found by :mod:`oracle.study.registry`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from dynamic.configuration import Configuration, Space
from dynamic.models import LoadedNetwork
from oracle.evaluation.collect import Collection
from oracle.settings import RunSettings
from oracle.study.outcomes import SpaceOutcomes
from oracle.study.sets import Planned, Planner


@dataclass
class Study:
    """A study in progress: the outcomes that parts compute their numbers from.

    Attributes:
        settings: of the main run.
        network: of the main run.
        parts: names of those that were asked for.
        outcomes, spaces, defaults: by set, once it has been evaluated.
        opened, seconds: by set, all that is to be evaluated and how long that will take.
        left_out: why sets are not there.
    """

    settings: RunSettings
    network: LoadedNetwork
    parts: list[str]
    outcomes: dict[str, xr.Dataset] = field(default_factory=dict)
    spaces: dict[str, list[Space]] = field(default_factory=dict)
    defaults: dict[str, Configuration] = field(default_factory=dict)
    opened: dict[str, Collection] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def of(self, name: str, space: str, split: str = "test") -> SpaceOutcomes:
        """One space of one set."""
        found = next(s for s in self.spaces[name] if s.name == space)
        return SpaceOutcomes.of(self.outcomes[name], found, self.defaults[name], split)

    @property
    def names(self) -> list[str]:
        """Of the main run's spaces."""
        return [space.name for space in self.spaces["main"]]

    def there(self, sets: dict[str, str]) -> dict[str, str]:
        """Those of some sets, by label, that were evaluated."""
        return {label: name for label, name in sets.items() if name in self.outcomes}


@dataclass(frozen=True)
class Section:
    """A part's text for people.

    Attributes:
        notes: paragraphs; empty ones are dropped.
        header, rows: the table; no rows, no table.
    """

    notes: list[str]
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def _nothing(planner: Planner) -> None:
    """Needs nothing but the main run."""


def _nothing_later(study: Study) -> dict[str, Planned]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A table or figure.

    Attributes:
        name: in ``--study``, in ``summary.json`` and of the figure's file.
        order: its place among the others.
        label: as the paper calls it, "Table 1".
        what: the subject, with the paper's section.
        needs: asks for the sets of outcomes that it takes beside the main run's.
        needs_later: sets that can be planned only once the main run is there.
        compute: JSON-ready data from the sets that could be had.
        describe: text and table from that data and the facts about the main run.
        draw: the figure from that data; None for none.
    """

    name: str
    order: int
    label: str
    what: str
    compute: Callable[[Study], dict[str, Any]]
    describe: Callable[[dict[str, Any], dict[str, Any]], Section]
    needs: Callable[[Planner], None] = _nothing
    needs_later: Callable[[Study], dict[str, Planned]] = _nothing_later
    draw: Callable[[dict[str, Any]], Figure] | None = None

    @property
    def title(self) -> str:
        """Heading of its section."""
        return f"{self.label}: {self.what}"


def is_small(run: dict[str, Any]) -> bool:
    """Whether a run's network or images are the project's small stand-ins."""
    return bool(run["slim"] or run["stand_in"])
