"""The scoreboard of the page: policies, references and static rivals in one table, the most accurate first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selector.policies.objectives import OBJECTIVE_WORDS
from selector.scoring.ranking import recommended
from selector.scoring.sentences import verdict
from selector.scoring.tables import difference_text, gap_text, guaranteed_text, p_text

Kind = Literal["learned", "reference", "oracle", "static"]

_CONSTANTS = ("default", "single_best", "cheapest", "most_preferred")
"""Policies that are a configuration, which has a line already."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A paired difference in accuracy, in points; ``verdict`` is better, worse or not distinguishable, or empty untested."""

    value: str = ""
    interval: str = ""
    verdict: str = ""
    p: str = ""
    rival: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the scoreboard.

    Attributes:
        name: of the policy, or the configuration run statically, without what all have in common.
        also: what its setting was chosen for, or what the configuration is called.
        kind: what it is.
        place: among learned policies; None for others.
        accuracy, low, high: percent, with its interval where there is one.
        mmacs, share: an image; of the default's.
        default, static: compared with the default, and with the best static configuration that costs no more.
        gap, guaranteed, milliseconds, ratio: as text, empty where there is none.
        dominated: whether another static configuration is as good for no more MACs.
    """

    name: str
    kind: Kind
    accuracy: float
    mmacs: float
    share: float
    also: tuple[str, ...] = ()
    place: int | None = None
    low: float | None = None
    high: float | None = None
    default: Compared = Compared()
    static: Compared = Compared()
    gap: str = ""
    guaranteed: str = ""
    milliseconds: str = ""
    ratio: str = ""
    dominated: bool = False


def scoreboard(result: Mapping[str, Any]) -> list[Line]:
    """All lines of a run, the most accurate first, the cheaper of two equal ones before.

    Settings that were chosen for several objectives have one line.

    Args:
        result: as :func:`selector.scoring.benchmark.benchmark_run` returns it.
    """
    default = 1000 * result["run"]["default_gmacs"]
    merged: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    constants = {row["name"]: row for row in result["policies"] if row["name"] in _CONSTANTS}
    for row in result["policies"]:
        if row["name"] not in constants:
            merged.setdefault((row["policy"], row["dial"]), []).append(row)
    short = short_names(result["static"]["configurations"])
    lines = [_of_policy(rows, default, short) for rows in merged.values()] + _statics(result, constants, default, short)
    lines += _networks(result, default)
    lines.sort(key=lambda line: (-line.accuracy, line.mmacs, line.name))
    return _placed(lines)


def _placed(lines: Sequence[Line]) -> list[Line]:
    learned = [line for line in lines if line.kind == "learned"]
    places = {id(line): place for place, line in enumerate(learned, 1)}
    return [Line(**vars(line) | {"place": places.get(id(line))}) for line in lines]


def _of_policy(rows: Sequence[Mapping[str, Any]], default: float, short: Mapping[str, str]) -> Line:
    """One setting of a policy, whatever objectives chose it."""
    row, interval = rows[0], rows[0]["accuracy_ci"]
    kind: Kind = "learned" if row["learned"] else "oracle" if row["name"] == "oracle" else "reference"
    rival = row.get("versus_static")
    ratios = (row.get("static_ratio") or {}).values()
    return Line(
        name=row["policy"].replace("_", " "),
        kind=kind,
        also=tuple(r["objective"].replace("_", " ") for r in rows if r["objective"]),
        accuracy=100 * row["accuracy"],
        low=100 * interval[0],
        high=100 * interval[1],
        mmacs=1000 * row["gmacs"],
        share=1000 * row["gmacs"] / default,
        default=_compared(row["versus_default"], row["learned"]),
        static=Compared() if rival is None else _compared(rival, row["learned"], _called(rival["configuration"], short)),
        gap=gap_text(row) if row["learned"] else "",
        guaranteed=guaranteed_text(row),
        milliseconds=_side_by_side(row.get("milliseconds")),
        ratio=" / ".join(f"{ratio['median']:.2f}" for ratio in ratios),
    )


def _called(rival: str, short: Mapping[str, str]) -> str:
    """A configuration by its short name, another network by its own."""
    return short.get(rival, rival)


def _compared(versus: Mapping[str, Any], learned: bool, rival: str = "") -> Compared:
    """Only learned policies' differences are tested: the family that Holm's correction is for."""
    tested = learned and versus.get("p_holm") is not None
    value, _, interval = difference_text(versus).partition(" [")
    return Compared(
        value=value,
        interval=f"[{interval}",
        verdict=verdict(versus) if tested else "",
        p=p_text(versus["p_holm"]) if tested else "",
        rival=rival,
    )


def _statics(
    result: Mapping[str, Any], constants: Mapping[str, Mapping[str, Any]], default: float, short: Mapping[str, str]
) -> list[Line]:
    """Every configuration of the run as a network of its own, which people would use instead."""
    static, name = result["static"], result["run"]["default"]
    gmacs, accuracy = np.array(static["gmacs"]), np.array(static["accuracy"])
    better = (gmacs[None] <= gmacs[:, None]) & (accuracy[None] >= accuracy[:, None])
    better &= (gmacs[None] < gmacs[:, None]) | (accuracy[None] > accuracy[:, None])
    timed = result.get("static_network_milliseconds")
    lines = []
    for column, configuration in enumerate(static["configurations"]):
        here = gmacs[column], accuracy[column]
        called = [row for row in constants.values() if np.allclose((row["gmacs"], row["accuracy"]), here, rtol=1e-9)]
        own = [row["name"].replace("_", " ") for row in called if (row["name"] == "default") <= (configuration == name)]
        interval = called[0]["accuracy_ci"] if called else None
        deployed = timed if configuration == name else None
        lines.append(
            Line(
                name=short[configuration],
                kind="static",
                also=tuple(own),
                accuracy=100 * float(accuracy[column]),
                low=100 * interval[0] if interval else None,
                high=100 * interval[1] if interval else None,
                mmacs=1000 * float(gmacs[column]),
                share=1000 * float(gmacs[column]) / default,
                default=_compared(called[0]["versus_default"], False) if called and "default" not in own else Compared(),
                milliseconds=_side_by_side(deployed),
                ratio=" / ".join("1" for _ in deployed or {}),
                dominated=bool(better[column].any()) and not own,
            )
        )
    return lines


def _networks(result: Mapping[str, Any], default: float) -> list[Line]:
    """Other networks, run statically."""
    return [
        Line(
            name=row["name"],
            kind="static",
            also=("another network",),
            accuracy=100 * row["accuracy"],
            low=100 * row["accuracy_ci"][0],
            high=100 * row["accuracy_ci"][1],
            mmacs=1000 * row["gmacs"],
            share=1000 * row["gmacs"] / default,
            default=_compared(row["versus_default"], False),
        )
        for row in result["networks"]
    ]


def short_names(ids: Sequence[str]) -> dict[str, str]:
    """Ids without the attributes that are the same in all.

    >>> short_names(["s1-2-2-2_d1-1-1-1_k3-3-3-3", "s2-2-2-2_d1-1-1-1_k3-3-3-3"])
    {'s1-2-2-2_d1-1-1-1_k3-3-3-3': 's1-2-2-2', 's2-2-2-2_d1-1-1-1_k3-3-3-3': 's2-2-2-2'}
    """
    parts = [set(name.split("_")) for name in ids]
    shared = set.intersection(*parts) if len(ids) > 1 else set()
    return {name: "_".join(part for part in name.split("_") if part not in shared) for name in ids}


def _side_by_side(milliseconds: Mapping[str, float] | None) -> str:
    return " / ".join(f"{ms:.1f}" for ms in (milliseconds or {}).values())


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the label split recommends for an objective, and what the test images say of it."""

    title: str
    policy: str
    accuracy: float
    mmacs: float
    share: float
    text: str
    verdict: str


def cards(result: Mapping[str, Any]) -> list[Card]:
    """One for each objective."""
    rows = {row["name"]: row for row in result["policies"]}
    learned = [row for row in result["policies"] if row["learned"]]
    found = []
    for objective, words in OBJECTIVE_WORDS.items():
        row, choice = recommended(learned, objective, rows["default"], result["run"])
        versus = row["versus_default"]
        found.append(
            Card(
                title=words,
                policy=choice.policy.replace("_", " "),
                accuracy=100 * row["accuracy"],
                mmacs=1000 * row["gmacs"],
                share=row["gmacs"] / rows["default"]["gmacs"],
                text=f"{difference_text(versus)} points from the default"
                if choice.helps
                else "nothing learned surely helps",
                verdict=verdict(versus) if choice.helps else "",
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where accuracies lie in a strip of 100 units."""

    low: float
    high: float

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Scale:
        """Of the learned policies and the default, so that what separates them is seen; the others may lie outside."""
        shown = [line for line in lines if line.kind == "learned" or "default" in line.also]
        values = [value for line in shown for value in (line.accuracy, line.low, line.high) if value is not None]
        return cls(low=min(values), high=max(values))

    def at(self, value: float) -> float:
        """Between 0 and 100; what lies outside is at the edge."""
        return float(np.clip(100 * (value - self.low) / max(self.high - self.low, 1e-9), 0, 100))

    def outside(self, value: float) -> bool:
        """Whether an accuracy lies beyond the edges."""
        return not self.low <= value <= self.high
