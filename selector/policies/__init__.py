"""All policies by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dynamic.errors import UserError
from dynamic.integrity import digest_of_file
from selector.policies.base import POLICY, SOURCE, Policy, load_facts
from selector.policies.blend import Blend, SecondLook, TopTwo
from selector.policies.boosting import Correctness, PreferredClassifier, Ranker
from selector.policies.cascade import Averaging, Cascade
from selector.policies.constant import Cheapest, Default, MostPreferred, Oracle, RandomChoice, SingleBest
from selector.policies.head import Head
from selector.policies.own import policy_class
from selector.policies.scoring import Neighbours
from selector.policies.stacking import Stacking
from selector.policies.stagewise import Stagewise

if TYPE_CHECKING:
    from dynamic.configuration import Configuration
    from oracle.run_folder import RunFolder
    from oracle.runs import Run

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
    Stacking,
)

_ALL: tuple[type[Policy], ...] = (*REFERENCES, *LEARNED, Oracle)
BY_NAME: dict[str, type[Policy]] = {cls.name: cls for cls in _ALL}


def make(names: str = "") -> list[Policy]:
    """Unfitted policies: the references, and the learned ones named (comma-separated) or all.

    ``FILE.py:CLASS`` among the names is a policy of one's own; see :mod:`selector.policies.own`.

    Raises:
        UserError: an unknown name, a file that cannot be used, or two policies of one name.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    own = [_own(name) for name in wanted if ".py:" in name]
    wanted = [name for name in wanted if ".py:" not in name]
    known = [policy.name for policy in LEARNED]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(f"no learned policy is called {unknown[0]!r}: choose from {', '.join(known)}")
    repeated = [cls.name for cls in own if [cls.name for cls in own].count(cls.name) > 1]
    if repeated:
        raise UserError(f"two policies are called {repeated[0]!r}: give one of them another name")
    all_ = not (wanted or own)
    makers: list[Callable[[], Policy]] = [*REFERENCES, *(p for p in LEARNED if all_ or p.name in wanted), *own]
    return [maker() for maker in makers]


def _own(name: str) -> type[Policy]:
    """The class that ``FILE.py:CLASS`` names."""
    path, _, kind = name.rpartition(":")
    found = policy_class(Path(path), kind)
    if found.name in BY_NAME:
        raise UserError(f"{path}: a policy called {found.name!r} is there already: give {kind} another name")
    return found


def load_policy(folder: Path) -> Policy:
    """A policy that was saved. Raises UserError where there is none, or one of an unknown kind."""
    facts = load_facts(folder)
    name = str(facts.get("policy"))
    if "class" in facts:
        if not (folder / SOURCE).is_file() or digest_of_file(folder / SOURCE) != facts["files"][SOURCE]:
            raise UserError(f"{folder / SOURCE} is missing or damaged: restore a copy, or fit the policy again")
        return policy_class(folder / SOURCE, facts["class"]).load(folder)
    if name not in BY_NAME:
        raise UserError(f"{folder} holds a policy of unknown kind {name!r}: known are {', '.join(BY_NAME)}")
    return BY_NAME[name].load(folder)


def load_policies(
    run: RunFolder, configurations: Sequence[Configuration] | None = None, folder: Path | None = None
) -> list[Policy]:
    """All policies of a run, references first.

    Args:
        run: whose policies.
        configurations: that they may choose among; unless given, all that the run (then an opened one) evaluated.
        folder: of the policies; the run's own unless given. Compiled precisions have others, beside their graphs.

    Raises:
        UserError: none there, damaged ones, or such that were fitted for another network or other configurations.
    """
    folder = run.policies if folder is None else folder
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
    policies = [found[name] for name in [*BY_NAME, *sorted(found.keys() - BY_NAME.keys())] if name in found]
    if configurations is None:
        configurations = cast("Run", run).configurations
    known = {c.id for c in configurations}
    for policy in policies:
        run.digests.require(policy.digests_, folder / policy.name, "fit it for this run (python -m selector.train RUN)")
        unknown = [name for name in policy.portfolio_ if name not in known]
        if unknown:
            raise UserError(
                f"{folder / policy.name} chooses among configurations that this run did not run, such as {unknown[0]}"
            )
    if len({policy.portfolio_ for policy in policies}) > 1 or not _of_same_images(policies):
        raise UserError(f"the policies in {folder} learned from different portfolios or images: delete it and train again")
    if len({policy.terms_ for policy in policies if policy.terms_ is not None}) > 1:
        raise UserError(
            f"the policies in {folder} guarantee by different terms (tolerance, confidence): train all of them again"
        )
    return policies


def _of_same_images(policies: list[Policy]) -> bool:
    """Whether policies were fitted on the same images: mostly files of equal digests, which need not be read."""
    files = {policy.fitted_on_file.digest if policy.fitted_on_file else None for policy in policies}
    return (len(files) == 1 and None not in files) or len({policy.fitted_on_ for policy in policies}) == 1


def digest_of_policies(folder: Path) -> str:
    """Short hash of every policy saved in ``folder``: whether results still belong to them."""
    hashed = sha256()
    for path in sorted(folder.glob(f"*/{POLICY}")):  # which lists a policy's other files with their digests
        hashed.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()[:16]
