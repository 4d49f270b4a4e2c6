"""The benchmark: every policy of a run on its test split, once."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from dynamic.command import check_device
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.files import make_writable, write_whole
from oracle.evaluation.collect import Collection, reopen
from selector.interchange.asf import AsfPairwise, available
from selector.learning.fitting import Played, calibrate, play
from selector.learning.training import FOLDER, observe_run, observed_configurations
from selector.observation.images import Recorded
from selector.observation.observe import Observations
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import OBJECTIVES, Policy
from selector.policies.boosting import Correctness
from selector.policies.constant import Oracle
from selector.scoring.metrics import References, area, closed_gap, closed_gap_interval, measure
from selector.scoring.report import verdicts, write_report
from selector.scoring.timing import milliseconds
from selector.shipped import SHIPPED

RESULTS = "results.json"
"""Of one run, where its observations are."""

CURVE = (250, 500, 1000, 2000, 4000, 8000)
"""Label images of the learning curve, and all there are."""

LEARNERS = ("neighbours", "correctness", "cascade")
"""Policies of the learning curve."""

BINS = 5
"""Of the true object side."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What to rank."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of oracle runs that selector.train learned from; what the repository ships unless given."""
    shifted: Path | None = None
    """Another run of the same network and configurations: its test images are unlike those the policies learned from."""
    data_dir: Path | None = None
    """Where the runs' images are now, if they were moved."""
    learning_curve: bool = True
    """Refit some policies on fewer label images."""
    outside: bool = True
    """Compare with asf-lib's selector, if it is installed."""
    timing: bool = True
    """Measure milliseconds on the running network."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""
    out: Path = Path("runs/selector")
    """Folder of the report."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.shifted is not None and len(self.runs) != 1:
            raise UserError("--shifted goes with one run: name it")


def refuse_overlap(policy: Policy, observed: Observations) -> None:
    """Raise UserError where a policy was fitted on images it would be scored on."""
    shared = sorted(policy.fitted_on_.intersection(map(str, observed.keys)))
    if shared:
        raise UserError(
            f"{policy.name} was fitted on {len(shared)} of the images it would be scored on, such as {shared[0]}: "
            "fit it on the label split (python -m selector.train RUN)"
        )


def scored(policies: Sequence[Policy], label: Observations, test: Observations) -> tuple[list[dict[str, Any]], References]:
    """A row for each policy and objective on the test split, the references first.

    Args:
        policies: fitted, with operating points; ``default`` and ``single_best`` among them.
        label: gives the default's accuracy and cost, which the objectives refer to.
        test: scored on.

    Raises:
        UserError: a policy was fitted on a test image.
    """
    for policy in policies:
        refuse_overlap(policy, test)
    by_name = {policy.name: policy for policy in policies}
    oracle = Oracle().fit(label).reveal(test)
    single_best = int(by_name["single_best"].decide(Recorded(test))[0])
    references = References.of(test, single_best, play(oracle, Recorded(test)))
    static = float(label.correct[:, label.default].mean()), float(label.costs.default)
    rows = []
    for policy in [*(p for p in policies if not p.learned), oracle, *(p for p in policies if p.learned)]:
        for objective in OBJECTIVES if policy.dials else (None,):
            point = policy.point(objective or "accuracy", *static)
            played = play(policy, Recorded(test), point.dial if point else None)
            expected = {"accuracy": point.accuracy, "gmacs": point.macs / 1e9} if point else None
            row: dict[str, Any] = {
                "name": f"{policy.name}/{objective}" if objective else policy.name,
                "policy": policy.name,
                "objective": objective,
                "learned": policy.learned,
                "dial": point.dial if point else None,
                "expected": expected,
            }
            rows.append(row | measure(played, test, references))
    return rows, references


def curves(policies: Sequence[Policy], test: Observations) -> dict[str, list[list[float]]]:
    """(GMACs, accuracy) on the test split of every setting of every dial: for the picture, nothing is chosen from it."""
    found = {}
    for policy in policies:
        if policy.dials:
            points = [play(policy, Recorded(test), dial) for dial in policy.dials]
            found[policy.name] = [[float(p.macs.mean() / 1e9), float((p.predicted == test.labels).mean())] for p in points]
    return found


def learning_curve(
    policies: Sequence[Policy], label: Observations, test: Observations, references: References
) -> list[dict[str, Any]]:
    """Accuracy at the most accurate setting, after fitting on the first 250, 500, ... label images."""
    rows = []
    sizes = [size for size in CURVE if size < len(label)] + [len(label)]
    chosen = [policy for policy in policies if policy.name in LEARNERS]
    for policy in tqdm(chosen, desc="learning curve", unit="policy", mininterval=0):
        for size in sizes:
            fitted = calibrate(policy.fresh(), label.rows(np.arange(size)))
            point = fitted.point("accuracy", 1.0, np.inf)
            assert point is not None
            rows.append(
                {"policy": policy.name, "images": size} | _gap(play(fitted, Recorded(test), point.dial), test, references)
            )
    return rows


def _gap(played: Played, test: Observations, references: References) -> dict[str, Any]:
    right = played.predicted == test.labels
    interval = closed_gap_interval(right, references.single_best, references.oracle, references.draws)
    return {
        "accuracy": float(right.mean()),
        "gmacs": float(played.macs.mean() / 1e9),
        "closed_gap": closed_gap(right, references.single_best, references.oracle),
        "closed_gap_ci": None if interval is None else list(interval),
    }


def shuffled_control(label: Observations, test: Observations, references: References, seed: int = 0) -> dict[str, Any]:
    """A correctness policy fitted on labels dealt to the wrong images: it must close nothing."""
    order = np.random.default_rng(seed).permutation(len(label))
    shuffled = replace(label, labels=label.labels[order], probabilities=label.probabilities[order])
    return _gap(play(Correctness(seed=seed).fit(shuffled), Recorded(test), 0.0), test, references)


def by_side(policies: Sequence[Policy], rows: Sequence[dict[str, Any]], test: Observations) -> list[dict[str, Any]]:
    """Accuracy and MACs of the default, the single best, each objective's policy and the oracle by true object side."""
    if test.sides is None:
        return []
    by_name = {policy.name: policy for policy in policies}
    correct, found = test.correct, []
    answers: dict[str, tuple[np.ndarray, np.ndarray | None]] = {"oracle": (np.asarray(correct.any(axis=1)), None)}
    for row in rows:
        policy = by_name.get(row["policy"])
        if policy is not None and (policy.learned or row["name"] in ("default", "single_best")):
            played = play(policy, Recorded(test), row["dial"])
            answers[row["name"]] = (played.predicted == test.labels, played.macs)
    order = np.argsort(test.sides, kind="stable")
    for part in np.array_split(order, min(BINS, len(order))):
        entry: dict[str, Any] = {
            "sides": [float(test.sides[part].min()), float(test.sides[part].max())],
            "images": len(part),
        }
        entry["accuracy"] = {name: float(right[part].mean()) for name, (right, _) in answers.items()}
        entry["gmacs"] = {name: float(macs[part].mean() / 1e9) for name, (_, macs) in answers.items() if macs is not None}
        found.append(entry)
    return found


def benchmark_run(settings: BenchmarkSettings, run: Path, observations: Path, policies: Path) -> dict[str, Any]:
    """Everything about one run, JSON-ready."""
    loaded = load_policies(policies)
    other = reopen(settings.shifted, device=settings.device, data_dir=settings.data_dir) if settings.shifted else None
    collection = reopen(run, device=settings.device, data_dir=settings.data_dir)
    portfolio = [Configuration.parse(name) for name in loaded[0].portfolio_]
    observed = observe_run(collection, observed_configurations(collection, run, len(portfolio)), observations)
    observed = observed.among(portfolio, collection.network, collection.source.resolution)
    label, test = observed.split("label"), observed.split("test")
    if not len(label) or not len(test):
        raise UserError(f"{run} needs readable images in both its splits")
    rows, references = scored(loaded, label, test)
    notes = []
    if settings.outside and available():
        outside = AsfPairwise().fit(label)
        played = play(outside, Recorded(test))
        named: dict[str, Any] = {"name": outside.name, "policy": outside.name, "objective": None, "learned": True}
        rows.append(named | {"dial": None, "expected": None} | measure(played, test, references))
    elif settings.outside:
        notes.append("asf-lib is not installed, so its row is missing: pip install -e '.[compare]'")
    if settings.timing:
        for row in tqdm(rows, desc="timing", unit="policy", mininterval=0):
            policy = next((p for p in loaded if p.name == row["policy"]), None)
            row["milliseconds"] = milliseconds(policy, row["dial"], collection, portfolio) if policy else None
    points = curves(loaded, test)
    result = {
        "run": _facts(run, collection, label, test, loaded),
        "policies": rows,
        "static": _static(test),
        "curves": points,
        "area": _areas(points, test),
        "by_side": by_side(loaded, rows, test),
        "control": shuffled_control(label, test, references),
        "learning_curve": learning_curve(loaded, label, test, references) if settings.learning_curve else [],
        "shifted": _shifted(settings, loaded, label, collection, other) if other else None,
        "notes": notes,
    }
    return result | {"verdicts": verdicts(result)}


def _facts(
    run: Path, collection: Collection, label: Observations, test: Observations, policies: Sequence[Policy]
) -> dict[str, Any]:
    settings = collection.settings
    return {
        "name": run.name,
        "model": settings.model,
        "weights": Path(settings.weights).stem if Path(settings.weights).suffix else settings.weights,
        "dataset": settings.dataset,
        "regime": settings.regime if settings.dataset == "fashion-scenes" else None,
        "recalibrated_on": settings.recalibrate,
        "recalibrate_regime": settings.recalibrate_regime,
        "label_images": len(label),
        "test_images": len(test),
        "fitted_on": len(policies[0].fitted_on_),
        "configurations": [c.id for c in test.portfolio],
        "default": test.portfolio[test.default].id,
        "default_gmacs": test.costs.default / 1e9,
        "unsolvable_share": float(1 - test.correct.any(axis=1).mean()),
    }


def _static(test: Observations) -> dict[str, Any]:
    return {
        "configurations": [c.id for c in test.portfolio],
        "gmacs": (test.costs.whole / 1e9).tolist(),
        "accuracy": test.correct.mean(axis=0).tolist(),
    }


def _areas(points: dict[str, list[list[float]]], test: Observations) -> dict[str, float]:
    """Mean accuracy over cost, from the cheapest configuration to the default, of each dial and of static mixtures."""
    macs = test.costs.whole / 1e9
    static = [(float(m), float(a)) for m, a in zip(macs, test.correct.mean(axis=0), strict=True)]
    low, high = float(macs.min()), test.costs.default / 1e9
    found = {"static": area(static, low, high)}
    for name, curve in points.items():
        # A policy may always fall back to a constant; its cheapest point is not its fault.
        found[name] = area([*((m, a) for m, a in curve), static[int(macs.argmin())]], low, high)
    return found


def _shifted(
    settings: BenchmarkSettings,
    policies: Sequence[Policy],
    label: Observations,
    collection: Collection,
    other: Collection,
) -> dict[str, Any]:
    name = other.settings.out.name
    if other.network.digest != collection.network.digest:
        raise UserError(f"--shifted {name} ran another network")
    folder = settings.out / f"{name}-shifted"
    test = observe_run(other, list(label.portfolio), folder, ("test",))
    if other.settings.regime == "wide" and collection.settings.regime == "matched" and test.sides is not None:
        assert label.sides is not None
        test = test.rows((test.sides < label.sides.min()) | (test.sides > label.sides.max()))
    if not len(test):
        raise UserError(f"--shifted {name} has no readable test image unlike those the policies learned from")
    rows, _ = scored(policies, label, test)
    return {"run": name, "images": len(test), "policies": rows, "static": _static(test)}


def benchmark(settings: BenchmarkSettings) -> dict[str, Any]:
    """Rank the policies of each run, write the report, and return what ``results.json`` holds."""
    make_writable(settings.out)
    shipped = not settings.runs
    results = []
    for run in settings.runs or SHIPPED.values():
        print(f"{run.name}:", file=sys.stderr)
        folder = settings.out / run.name if shipped else run / FOLDER
        policies = run / "policies" if shipped else folder / "policies"
        result = benchmark_run(settings, run, folder / "observations", policies)
        result["policies_digest"] = digest_of_policies(policies)
        write_whole(folder / RESULTS, json.dumps(result, indent=1).encode())
        results.append(result)
    write_report(results, settings.out)
    write_whole(settings.out / "results.json", json.dumps({"runs": results}, indent=1).encode())
    return {"runs": results}
