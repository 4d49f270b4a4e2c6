"""All policies by name."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from dynamic.errors import UserError
from oracle.runs import Run
from selector.policies.base import POLICY, Policy, load_facts
from selector.policies.blend import Blend, SecondLook, TopTwo
from selector.policies.boosting import Correctness, PreferredClassifier, Ranker
from selector.policies.cascade import Averaging, Cascade
from selector.policies.constant import Cheapest, Default, MostPreferred, Oracle, RandomChoice, SingleBest
from selector.policies.head import Head
from selector.policies.scoring import Neighbours
from selector.policies.stagewise import Stagewise

REFERENCES: tuple[type[Policy], ...] = (Default, SingleBest, Cheapest, MostPreferred, RandomChoice)
"""Fitted in no time and always in the table; the oracle comes on top."""

LEARNED: tuple[type[Policy], ...] = (
    PreferredClassifier,
    Neighbours,
    Ranker,
    Correctness,
    Head,
    Blend,
    SecondLook,
    TopTwo,
    Stagewise,
    Cascade,
    Averaging,
)

_ALL: tuple[type[Policy], ...] = (*REFERENCES, *LEARNED, Oracle)
BY_NAME: dict[str, type[Policy]] = {cls.name: cls for cls in _ALL}


def make(names: str = "") -> list[Policy]:
    """Unfitted policies: the references, and the learned ones named (comma-separated) or all.

    Raises:
        UserError: an unknown name.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [policy.name for policy in LEARNED]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(f"no learned policy is called {unknown[0]!r}: choose from {', '.join(known)}")
    makers: list[Callable[[], Policy]] = [*REFERENCES, *(p for p in LEARNED if not wanted or p.name in wanted)]
    return [maker() for maker in makers]


def load_policy(folder: Path) -> Policy:
    """A policy that was saved. Raises UserError where there is none, or one of an unknown kind."""
    name = str(load_facts(folder).get("policy"))
    if name not in BY_NAME:
        raise UserError(f"{folder} holds a policy of unknown kind {name!r}: known are {', '.join(BY_NAME)}")
    return BY_NAME[name].load(folder)


def load_policies(run: Run) -> list[Policy]:
    """All policies of a run, references first.

    Raises:
        UserError: none there, damaged ones, or such that were fitted for another network or other configurations.
    """
    folder = run.policies
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {path.name: load_policy(path) for path in folders}
    if not found:
        raise UserError(f"no policies in {folder}: learn them with python -m selector.train {run.folder}")
    renamed = [name for name, policy in found.items() if policy.name != name]
    if renamed:
        raise UserError(f"{folder / renamed[0]} holds the policy {found[renamed[0]].name}: call the folder by that name")
    lacking = [reference.name for reference in REFERENCES if reference.name not in found]
    if lacking:
        raise UserError(f"{folder} lacks {', '.join(lacking)}: run python -m selector.train {run.folder} to its end")
    policies = [found[name] for name in BY_NAME if name in found]
    known = {c.id for c in run.configurations}
    for policy in policies:
        run.digests.require(policy.digests_, folder / policy.name, "fit it for this run (python -m selector.train RUN)")
        unknown = [name for name in policy.portfolio_ if name not in known]
        if unknown:
            raise UserError(
                f"{folder / policy.name} chooses among configurations that this run did not run, such as {unknown[0]}"
            )
    if len({(policy.portfolio_, policy.fitted_on_) for policy in policies}) > 1:
        raise UserError(f"the policies in {folder} learned from different portfolios or images: delete it and train again")
    return policies


def digest_of_policies(folder: Path) -> str:
    """Short hash of every policy saved in ``folder``: whether results still belong to them."""
    hashed = sha256()
    for path in sorted(folder.glob(f"*/{POLICY}")):  # which lists a policy's other files with their digests
        hashed.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()[:16]
