"""A compiled run judged on its test images: equal to the eager network in float32, policies fitted anew in other precisions.

Every configuration runs once on every image, and all policies decide on what was seen of it; that a session, which runs no
more than one policy asks for, comes to the same is checked on some images.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dynamic.compiled.folder import CompiledNetwork
from dynamic.errors import UserError
from oracle.data.sources import ImageSource
from oracle.runs import Run
from selector.compiling.comparing import joined_runs, rows_of, settings_of
from selector.compiling.decided import decided_in_float32, keep_decided
from selector.compiling.equality import Equality, decide_recorded, live_as_seen, total
from selector.compiling.graphs import needs_of, portfolio_of_policies
from selector.compiling.looking import Looker, Seen
from selector.compiling.opening import POLICIES
from selector.compiling.results import write_results
from selector.compiling.settings import CompileSettings
from selector.learning.training import SMALLEST, fit_all
from selector.observation.costs import Costs
from selector.observation.observations import Observations
from selector.policies import digest_of_policies
from selector.policies.base import Policy
from selector.policies.objectives import TERMS, Objective, Terms
from selector.policies.running import PolicyRun
from selector.scoring.ranking import refuse_overlap

LIVE = 128
"""Test images on which policies decide live too."""

Setting = tuple[Policy, Objective | None, float | None]


def judged(
    settings: CompileSettings,
    run: Run,
    source: ImageSource,
    policies: list[Policy],
    network: CompiledNetwork,
    place: Path,
) -> dict[str, Any]:
    """What a report says of answers: rows, and equality in float32.

    Args:
        settings: which images, and the seed of the folds.
        run, source: that was compiled, and its images.
        policies: the run's own.
        network: its graphs.
        place: their folder; what is learned in another precision than float32 is left there.

    Raises:
        UserError: no test images, too few label images, or a policy that was fitted on test images.
    """
    portfolio = portfolio_of_policies(policies)
    looker = Looker(run, source, portfolio, Costs(run.network, portfolio, source.resolution))
    test = _rows(source, "test", settings.images)
    if network.precision == "float32":
        return _equal(looker, policies, network, test, place)
    return _refitted(settings, looker, policies, network, test, place)


def _rows(source: ImageSource, split: str, limit: int | None) -> np.ndarray:
    rows = np.flatnonzero(source.splits == split)[:limit]
    if not len(rows):
        raise UserError(
            f"the run has no {split} images, on which compiled policies are judged: give it images in both splits"
        )
    return rows


@dataclass(kw_only=True)
class _Decisions:
    """What comes of policies at their settings, some images at a time."""

    settings: Sequence[tuple[Policy, float | None]]
    runs: list[list[PolicyRun]] = field(default_factory=list)

    def add(self, seen: Seen) -> list[tuple[PolicyRun, np.ndarray]]:
        """Let all decide; by setting what came of it, and the probabilities that it chose."""
        made = [decide_recorded(policy, dial, seen) for policy, dial in self.settings]
        self.runs.append([run for run, _ in made])
        return made

    def joined(self) -> list[PolicyRun]:
        """By setting, of all images."""
        return [joined_runs(parts) for parts in zip(*self.runs, strict=True)]


def _distinct(settings: Sequence[Setting]) -> tuple[list[tuple[Policy, float | None]], list[int]]:
    """Policies at settings, each once, as several objectives may be served best by the same; and each objective's place."""
    found = {(policy.name, dial): (policy, dial) for policy, _, dial in settings}
    at = {setting: position for position, setting in enumerate(found)}
    return list(found.values()), [at[policy.name, dial] for policy, _, dial in settings]


def _equal(
    looker: Looker, policies: list[Policy], network: CompiledNetwork, test: np.ndarray, place: Path
) -> dict[str, Any]:
    """float32: the run's own policies on both networks."""
    eager, needs = looker.run.fast_network(), needs_of(policies, looker.portfolio, network.default)
    settings = settings_of(policies)
    distinct, order = _distinct(settings)
    expected, made = _Decisions(settings=distinct), _Decisions(settings=distinct)
    equality = [Equality() for _ in distinct]
    session, keys, labels = None, [], []
    with _bar("test images", len(test)) as bar:
        for rows, images in looker.chunks(test):
            theirs, ours = looker.eagerly(eager, rows, images), looker.compiled(network, needs, rows, images)
            for counted, one, other in zip(equality, expected.add(theirs), made.add(ours), strict=True):
                counted.add(one[0], other[0], (one[1], other[1]))
            session = session or live_as_seen(distinct, network, images[:LIVE], ours.first(LIVE))
            keys.append(ours.observed.keys)
            labels.append(ours.observed.labels)
            bar.update(len(rows))
    before, after, known = expected.joined(), made.joined(), np.concatenate(labels)
    keep_decided(place, settings, [before[position] for position in order], np.concatenate(keys), known)
    found = rows_of(settings, [after[p] for p in order], [before[p] for p in order], known)
    for row, position in zip(found, order, strict=True):
        row["equality"] = asdict(equality[position]) | {"holds": equality[position].holds}
    return {
        "test_images": len(known),
        "label_images": 0,
        "fitted_digest": digest_of_policies(looker.run.policies),
        "rows": found,
        "equality": total(equality),
        "live": session,
    }


def _refitted(
    settings: CompileSettings,
    looker: Looker,
    policies: list[Policy],
    network: CompiledNetwork,
    test: np.ndarray,
    place: Path,
) -> dict[str, Any]:
    """Another precision: the policies fitted anew on its answers about label images, then judged on test images."""
    label = _rows(looker.source, "label", settings.images)
    if len(label) < SMALLEST:
        raise UserError(f"{len(label)} label images are too few to fit policies on: give the run more, or --images more")
    for policy in policies:
        refuse_overlap(policy, looker.source.keys[test])
    needs = needs_of(policies, looker.portfolio, network.default)
    parts = []
    with _bar("label images", len(label)) as bar:
        for rows, images in looker.chunks(label):
            parts.append(looker.compiled(network, needs, rows, images).observed)
            bar.update(len(rows))
    learned_from = Observations.joined(parts)
    fitted = _fitted(policies, learned_from, place / POLICIES, settings.seed, policies[0].terms_ or TERMS)
    mine, theirs = settings_of(fitted), settings_of(policies)
    (distinct, order), (distinct_before, order_before) = _distinct(mine), _distinct(theirs)
    base = decided_in_float32(looker.run, place, theirs, looker.source.keys[test], looker.source.labels[test])
    eager = looker.run.fast_network() if base is None else None
    expected, made, parts, session = _Decisions(settings=distinct_before), _Decisions(settings=distinct), [], None
    with _bar("test images", len(test)) as bar:
        for rows, images in looker.chunks(test):
            if eager is not None:
                expected.add(looker.eagerly(eager, rows, images))
            ours = looker.compiled(network, needs, rows, images)
            made.add(ours)
            session = session or live_as_seen(distinct, network, images[:LIVE], ours.first(LIVE))
            parts.append(ours.observed)
            bar.update(len(rows))
    if base is None:
        found = expected.joined()
        base = [found[position] for position in order_before]
    after, runs = Observations.joined(parts), made.joined()
    fitted_digest = digest_of_policies(place / POLICIES)
    write_results(looker.run, network, fitted, fitted_digest, learned_from, after)
    return {
        "test_images": len(after),
        "label_images": len(learned_from),
        "fitted_digest": fitted_digest,
        "rows": rows_of(mine, [runs[position] for position in order], base, after.labels),
        "equality": None,
        "live": session,
    }


def _fitted(policies: Sequence[Policy], label: Observations, folder: Path, seed: int, terms: Terms) -> list[Policy]:
    """Policies fitted anew, saved all together: half of them are never served."""
    making, before = folder.with_name("policies.new"), folder.with_name("policies.before")
    for left in (making, before):  # of a start that was interrupted
        shutil.rmtree(left, ignore_errors=True)
    known = frozenset[str]().union(*(policy.chosen_on_ for policy in policies))
    fitted = fit_all([policy.fresh() for policy in policies], label, making, seed, terms, known)
    if folder.is_dir():
        os.replace(folder, before)
    os.replace(making, folder)
    shutil.rmtree(before, ignore_errors=True)
    return fitted


def _bar(what: str, images: int) -> tqdm[Any]:
    return tqdm(total=images, desc=what, unit="image", file=sys.stderr, mininterval=1)
