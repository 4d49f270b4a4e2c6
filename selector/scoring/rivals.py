"""What people would use instead of a policy: the best configuration that costs no more, or another network, run statically.

Another network is a run of its own (``python -m oracle.run --model ... --space default``), of which its default counts. What
is kept of it in ``RUN/rivals.json`` is a bit an image, so that a later benchmark needs neither its weights nor its folder.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from dynamic.errors import UserError
from dynamic.integrity import read_record, write_record
from oracle.evaluation.bounds import interval, single_best
from oracle.evaluation.paired import holm
from oracle.outcomes import compare_identity
from oracle.runs import Run
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.objectives import OperatingPoint
from selector.policies.running import PolicyRun, PolicyRuns
from selector.scoring.metrics import References, paired


@dataclass(frozen=True, kw_only=True)
class StaticNetwork:
    """Another network on the images of a run.

    Attributes:
        name: of its run.
        macs: multiply-accumulates of one image.
        label, test: (images,) bool, whether it is right, in the order of the run's observations of the split.
    """

    name: str
    macs: float
    label: np.ndarray
    test: np.ndarray

    @classmethod
    def of_run(cls, rival: Run, own: Run, label: Observations, test: Observations) -> Self:
        """The default configuration of a run on the same images.

        Raises:
            UserError: it has other images, or could not read one of these.
        """
        remedy = f"a rival must be a run on the images of {own.folder}"
        compare_identity(rival.folder, rival.record.images, own.record.images, remedy)
        outcomes = rival.outcomes()
        default = rival.network.default.id
        if default not in outcomes["configuration"].values:
            raise UserError(
                f"{rival.folder} did not run its default {default}, which is what counts: make it with --space default"
            )
        mine = outcomes.sel(configuration=default)
        right = dict(zip(map(str, mine["image"].values), mine["predicted"].values == mine["label"].values, strict=True))
        found = {}
        for split, observed in (("label", label), ("test", test)):
            lacking = [key for key in map(str, observed.keys) if key not in right]
            if lacking:
                raise UserError(f"{rival.folder} has no outcome of {len(lacking)} {split} images, such as {lacking[0]}")
            found[split] = np.array([right[key] for key in map(str, observed.keys)], dtype=bool)
        return cls(name=rival.name, macs=float(mine["macs"]), **found)


def versus_static(
    outcome: PolicyRun,
    label: Observations,
    test: Observations,
    references: References,
    networks: Sequence[StaticNetwork] = (),
) -> dict[str, Any]:
    """A policy against what is best on the label split of all that runs statically for no more, JSON-ready.

    Args:
        outcome: of the policy on the test images.
        label: chooses the rival.
        test: both are scored on.
        references: of the test images.
        networks: other networks, which are rivals beside the configurations.
    """
    macs = np.array([*label.costs.whole, *(network.macs for network in networks)])
    seen = np.column_stack([label.correct, *(network.label for network in networks)])
    affordable = np.flatnonzero(macs <= outcome.macs.mean() * (1 + 1e-9))
    if not len(affordable):
        affordable = np.flatnonzero(macs == macs.min())
    chosen = int(affordable[single_best(seen[:, affordable], macs[affordable])])
    count = len(label.portfolio)
    base = test.correct[:, chosen] if chosen < count else networks[chosen - count].test
    name = label.portfolio[chosen].id if chosen < count else networks[chosen - count].name
    return {"configuration": name} | paired(outcome.predicted == test.labels, base, references)


def write_rivals(path: Path, rivals: Sequence[StaticNetwork], label: Observations, test: Observations) -> None:
    """Keep rivals for later benchmarks of the run."""
    kept = [{"name": r.name, "macs": r.macs, "label": _packed(r.label), "test": _packed(r.test)} for r in rivals]
    write_record(path, {"images": _images(label, test), "rivals": kept})


def read_rivals(path: Path, label: Observations, test: Observations) -> list[StaticNetwork]:
    """What :func:`write_rivals` kept; none where there is no such file.

    Raises:
        UserError: a damaged file, or one of other images.
    """
    if not path.exists():
        return []
    record = read_record(path)
    if record["images"] != _images(label, test):
        raise UserError(f"{path} was made on other images: give --rivals again, or delete it")
    return [
        StaticNetwork(
            name=kept["name"],
            macs=kept["macs"],
            label=_unpacked(kept["label"], len(label)),
            test=_unpacked(kept["test"], len(test)),
        )
        for kept in record["rivals"]
    ]


def against_networks(
    rivals: Sequence[StaticNetwork],
    policies: Sequence[Policy],
    label: Observations,
    runs: PolicyRuns,
    references: References,
) -> list[dict[str, Any]]:
    """Each rival on the test split, against the default and two settings of policies, JSON-ready.

    ``for_its_cost`` is learned policies' most accurate setting for no more MACs, ``for_its_accuracy`` the cheapest that is
    as accurate, both by the label split; None where there is none. Their ``p_holm`` is McNemar's p, adjusted for as
    many comparisons as there are.

    Args:
        rivals: on these images.
        policies: fitted, with operating points.
        label: of the run.
        runs: on its test images.
        references: of these.
    """
    points = [(policy, point) for policy in policies if policy.learned for point in policy.points_]
    promised = np.array([str(key) not in policies[0].chosen_on_ for key in label.keys])  # as the points' accuracies are
    found: list[dict[str, Any]] = []
    for rival in rivals:
        needed = float(rival.label[promised].mean())
        cheap = [chosen for chosen in points if chosen[1].macs <= rival.macs]
        good = [chosen for chosen in points if chosen[1].accuracy >= needed]
        settings = {
            "for_its_cost": max(cheap, key=lambda chosen: (chosen[1].accuracy, -chosen[1].macs), default=None),
            "for_its_accuracy": min(good, key=lambda chosen: (chosen[1].macs, -chosen[1].accuracy), default=None),
        }
        found.append(
            {
                "name": rival.name,
                "gmacs": rival.macs / 1e9,
                "accuracy": float(rival.test.mean()),
                "accuracy_ci": list(interval(rival.test)),
                "versus_default": paired(rival.test, references.default, references),
            }
            | {kind: chosen and _beside(*chosen, rival, runs, references) for kind, chosen in settings.items()}
        )
    beside = [row[kind] for row in found for kind in ("for_its_cost", "for_its_accuracy") if row[kind]]
    for comparison, p in zip(beside, holm([comparison["versus"]["p"] for comparison in beside]), strict=True):
        comparison["versus"]["p_holm"] = p
    return found


def _beside(
    policy: Policy, point: OperatingPoint, rival: StaticNetwork, runs: PolicyRuns, references: References
) -> dict[str, Any]:
    """One setting of a policy against a rival."""
    (outcome,) = runs.at(policy, [point.dial])
    right = outcome.predicted == runs.observed.labels
    return {
        "policy": policy.name,
        "dial": point.dial,
        "gmacs": float(outcome.macs.mean() / 1e9),
        "accuracy": float(right.mean()),
        "versus": paired(right, rival.test, references),
    }


def _images(label: Observations, test: Observations) -> str:
    """A digest of which images, in which order."""
    names = "\n".join([*map(str, label.keys), "", *map(str, test.keys)])
    return hashlib.sha256(names.encode()).hexdigest()


def _packed(right: np.ndarray) -> str:
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def _unpacked(packed: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8), count=count).astype(bool)
