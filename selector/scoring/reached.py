"""What each policy does to images that it was not fitted on: how far it goes, how sure it is, what that costs.

``python -m selector.benchmark`` counts the test images of a run by what they cost and how sure the answer was, and leaves
``RUN/benchmark/reached.json``. The service compares live images with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynamic.errors import UserError
from dynamic.integrity import read_record
from oracle.run_folder import RunFolder
from selector.observation.observations import in_parts
from selector.policies import digest_of_policies
from selector.policies.base import Policy
from selector.policies.objectives import OBJECTIVES
from selector.policies.running import PolicyRuns

_LEVELS = 8
"""Levels of cost, at most."""
_ENOUGH = 50
"""Images that a cell is to have: of a level with fewer than four times as many, confidence is not told apart."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Images under one policy at one setting, counted in cells: by what they cost, and in each level of cost by confidence.

    Confidence is the probability of the answer's class, in half precision as policies see it.

    Attributes:
        policy, dial: whose; ``dial`` is None where it has none.
        costs: between the levels of cost, MACs, ascending.
        confidences: for each level, between its cells, ascending.
        counts: images in each cell, level by level.
        mean_macs: an image, the policy's own included.
        mean_confidence: of the answers.

    Raises:
        ValueError: counts of another number than there are cells.
    """

    policy: str
    dial: float | None
    costs: tuple[float, ...]
    confidences: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    mean_macs: float
    mean_confidence: float

    def __post_init__(self) -> None:
        if len(self.confidences) != len(self.costs) + 1 or len(self.counts) != sum(len(c) + 1 for c in self.confidences):
            raise ValueError(f"{len(self.counts)} counts do not fit the cells of {self.policy}")

    @classmethod
    def of(cls, policy: str, dial: float | None, macs: np.ndarray, confidence: np.ndarray) -> Reached:
        """Count images; (N,) MACs and (N,) confidence of each."""
        values = np.unique(np.round(macs))
        if len(values) <= _LEVELS:
            costs = (values[1:] + values[:-1]) / 2
        else:
            costs = np.unique(np.quantile(macs, np.arange(1, _LEVELS) / _LEVELS))
        level = np.searchsorted(costs, macs, side="right")
        confidences = []
        for one in range(len(costs) + 1):
            mine = confidence[level == one]
            cut = np.unique(np.quantile(mine, (0.25, 0.5, 0.75))) if len(mine) >= 4 * _ENOUGH else np.zeros(0)
            confidences.append(tuple(map(float, cut)))
        empty = sum(len(c) + 1 for c in confidences)
        made = cls(
            policy=policy,
            dial=dial,
            costs=tuple(map(float, costs)),
            confidences=tuple(confidences),
            counts=(0,) * empty,
            mean_macs=float(np.mean(macs)),
            mean_confidence=float(np.mean(confidence)),
        )
        cells = [made.cell(m, c) for m, c in zip(macs, confidence, strict=True)]
        return cls(**asdict(made) | {"counts": tuple(map(int, np.bincount(cells, minlength=empty)))})

    def cell(self, macs: float, confidence: float) -> int:
        """The cell of an image."""
        level = int(np.searchsorted(self.costs, macs, side="right"))
        before = sum(len(cut) + 1 for cut in self.confidences[:level])
        return before + int(np.searchsorted(self.confidences[level], np.float16(confidence), side="right"))

    @property
    def levels(self) -> np.ndarray:
        """(cells,) the level of cost that each cell belongs to."""
        return np.repeat(np.arange(len(self.confidences)), [len(cut) + 1 for cut in self.confidences])


def reached_by(policies: Sequence[Policy], runs: PolicyRuns) -> list[Reached]:
    """Every policy at the setting of each objective, on the test images.

    Args:
        policies: fitted on the label split, with operating points; ``default`` is one of them.
        runs: on images that they were not fitted on.
    """
    test = runs.observed
    (promised,) = next(policy for policy in policies if policy.name == "default").points_
    static = promised.accuracy, promised.macs
    confidences = np.concatenate([np.asarray(part.probabilities).max(axis=2) for part in in_parts(test)])
    found = []
    for policy in policies:
        points = [policy.point(objective, *static) for objective in OBJECTIVES]
        dials = list(dict.fromkeys(point.dial if point and policy.dials else None for point in points))
        for dial, run in zip(dials, runs.at(policy, dials), strict=True):
            confidence = confidences[np.arange(len(test)), run.columns]
            found.append(Reached.of(policy.name, dial, run.macs, confidence))
    return found


def record_of(reached: Sequence[Reached], policies_digest: str) -> dict[str, Any]:
    """JSON-ready."""
    return {"policies_digest": policies_digest, "reached": [asdict(one) for one in reached]}


def read_reached(run: RunFolder) -> Mapping[tuple[str, float | None], Reached]:
    """What the benchmark counted, by policy and setting.

    Raises:
        UserError: it did not, or of other policies, or the file is damaged.
    """
    command = f"run python -m selector.benchmark {run.folder}"
    if not run.reached.exists():
        raise UserError(f"nobody counted what the policies of {run.name} do to images: {command}")
    content = read_record(run.reached)
    if content.get("policies_digest") != digest_of_policies(run.policies):
        raise UserError(f"the policies of {run.name} were fitted again since it was benchmarked: {command}")
    try:
        found = [_restored(one) for one in content["reached"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.reached} is another version's ({error}): {command}") from error
    return {(one.policy, one.dial): one for one in found}


def _restored(content: Mapping[str, Any]) -> Reached:
    tuples = {"costs": tuple(content["costs"]), "counts": tuple(content["counts"])}
    return Reached(**{**content, **tuples, "confidences": tuple(map(tuple, content["confidences"]))})
