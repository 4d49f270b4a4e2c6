"""From a run to fitted policies: observe, fit on the label split, save."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from dynamic.command import check_device
from dynamic.configuration import Configuration, make_space
from dynamic.errors import UserError
from dynamic.lock import held
from dynamic.models import LoadedNetwork
from oracle.data.image_source import ImageSource
from oracle.data.views import drawn_again
from oracle.evaluation.ray_workers import cluster
from oracle.ray_settings import RaySettings
from oracle.runs import Run
from oracle.searched import chosen_on, searched_on
from selector.learning.fitting import calibrate, halves
from selector.learning.observing import observe_run, observed_configurations
from selector.learning.portfolios import LARGEST, learnable_portfolio
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.observation.observe import observe
from selector.policies import BY_NAME, load_policy, make
from selector.policies.base import POLICY, Policy
from selector.policies.choice import choose
from selector.policies.empty_stem import without_empty_stem
from selector.policies.guarantee import CONFIDENCE
from selector.policies.objectives import OBJECTIVE_WORDS, OBJECTIVES, TERMS, TOLERANCE, Terms
from selector.policies.own import own_errors
from selector.policies.sharing import sharing

SMALLEST = 8
"""Label images, at least."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RaySettings):
    """What to learn, from what."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of an oracle run."""
    portfolio: int = 16
    """Configurations to choose among, if the run has more: of up to 32 those whose choice can best be learned, by
    cross-validation; of more than 32 as python -m selector.portfolio takes them."""
    among: Path | None = None
    """File that lists the configurations to choose among, such as RUN/searched/portfolio.json of selector.search: the
    default and others that the run ran. Instead of --portfolio."""
    policies: str = ""
    """Comma-separated learned policies; all unless given. FILE.py:CLASS is one of your own, see docs/EXTENDING.md."""
    data_dir: Path | None = None
    """Where the run's images are now, if they were moved."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs; the fitting is done on the CPU."""
    views: int = 1
    """How often each label image is seen by policies that gain by it (stacking). Further views are other scenes of the same
    photograph (fashion-scenes) or the mirrored picture (others, 2 at most). Nothing is promised on them; all are held in
    memory together."""
    tolerance: float = TOLERANCE
    """Accuracy that may be given up for fewer multiply-accumulates, as a share: 0.01 is one point. A saving is recommended
    only where the label images guarantee that no more is lost."""
    confidence: float = CONFIDENCE
    """Share of label sets for which what is guaranteed holds, at least."""
    seed: int = 0
    """Deals the folds."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.portfolio <= LARGEST:
            raise UserError(f"--portfolio must be from 2 to {LARGEST}, not {self.portfolio}")
        if self.views < 1:
            raise UserError(f"--views must be at least 1, not {self.views}")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, as {self.seed} is")
        make(self.policies)
        self.terms  # noqa: B018, checks
        check_device(self.device)

    @property
    def terms(self) -> Terms:
        """Of what policies guarantee."""
        return Terms(tolerance=self.tolerance, confidence=self.confidence)


def train(settings: TrainSettings, network: LoadedNetwork | None = None) -> list[Policy]:
    """Observe, fit and save; returns the policies.

    Args:
        settings: what to learn from.
        network: that the run was made with, if it was given in Python.

    Raises:
        UserError: no finished run, images that are gone, too few of them or of configurations, or another process that works
            on the run.

    >>> policies = train(TrainSettings(run=Path("runs/mine"), policies="cascade"))  # doctest: +SKIP
    """
    run = Run.open(settings.run)
    if network is not None:
        run.adopt(network)
    with held(run.folder, "copy the run to a folder of yours"):
        return _train(settings, run)


def _train(settings: TrainSettings, run: Run) -> list[Policy]:
    source, outcomes = run.images(settings.data_dir), run.outcomes()
    policies = make(settings.policies)
    if settings.views > 1 and not any(policy.from_views for policy in policies):
        raise UserError(f"--views {settings.views}: none of these policies learns from further views")
    views = [drawn_again(source, number) for number in range(1, settings.views)]
    wanted = _wanted(settings.among, run)
    configurations = observed_configurations(run, outcomes, settings.portfolio)
    if len(configurations) < 2:
        raise UserError(f"{run.folder} ran one configuration: there is nothing to choose")
    if not set(wanted) <= set(configurations):
        configurations = wanted
    with cluster(settings):
        observed = observe_run(
            run,
            source,
            outcomes,
            configurations,
            run.observations,
            device=settings.device,
            data_dir=settings.data_dir,
            ray=settings,
        )
    label = observed.split("label")
    again = [_view(settings, run, view, label, number) for number, view in enumerate(views, start=1)]
    del outcomes, observed  # fitting takes long, and needs the memory
    if len(label) < SMALLEST:
        raise UserError(f"{len(label)} label images are too few to learn from: run oracle.run with more --images")
    choosing = chosen_on(run)
    if settings.among is not None:
        label, *again = (each.among(wanted, run.network, source.resolution) for each in (label, *again))
        choosing |= searched_on(settings.among)
    elif len(run.configurations) > settings.portfolio:
        half, _ = halves(label.keys)
        choosing |= half
        if len(configurations) > settings.portfolio:
            chosen = learnable_portfolio(
                label.rows(np.array([str(key) in half for key in label.keys])), settings.portfolio, settings.seed
            )
            kept = [configurations[i] for i in chosen]
            label, *again = (each.among(kept, run.network, source.resolution) for each in (label, *again))
    learned_from = Observations.joined([label, *again]) if again else label
    policies = [without_empty_stem(policy, label) for policy in policies]
    return fit_all(policies, label, run.policies, settings.seed, settings.terms, choosing, learned_from)


def _view(settings: TrainSettings, run: Run, source: ImageSource, label: Observations, number: int) -> Observations:
    """What the same label images are under a further view, observed here even where the first was on a cluster."""
    here, out = replace(run.settings, device=settings.device), run.observations / f"view-{number}"
    observed = observe(run, source, label.portfolio, out, splits=("label",), settings=here)
    return observed.rows(np.isin(observed.keys, label.keys))


def _wanted(among: Path | None, run: Run) -> list[Configuration]:
    """What a file lists; empty where there is none. Raises UserError where it is no portfolio of the run."""
    if among is None:
        return []
    listed = list(dict.fromkeys(make_space(str(among), run.network.default)))
    if not 2 <= len(listed) <= LARGEST:
        raise UserError(f"--among {among} lists {len(listed)} configurations: 2 to {LARGEST} can be chosen among")
    if run.network.default not in listed:
        raise UserError(f"--among {among} lacks the default {run.network.default.id}, the baseline of every comparison")
    return listed


def fit_all(
    policies: list[Policy],
    label: Observations,
    out: Path,
    seed: int,
    terms: Terms = TERMS,
    chosen_on: frozenset[str] = frozenset(),
    learned_from: Observations | None = None,
) -> list[Policy]:
    """Fit, estimate and save each policy; see :func:`selector.learning.fitting.calibrate`."""
    fitted = {policy.name for policy in policies}
    others = {path.parent.name for path in out.glob(f"*/{POLICY}")} - fitted  # one is chosen among all of them
    tried = sum(policy.learned for policy in policies)
    tried = max(tried + sum(getattr(BY_NAME.get(name), "learned", True) for name in others), 1)
    progress = tqdm(policies, unit="policy", mininterval=0)
    with sharing():
        for policy in progress:
            progress.set_description(policy.name)
            calibrate(policy, label, seed, tried, terms, chosen_on, learned_from)
            policy.save(out / policy.name)
            _refuse_forgetting(policy, out / policy.name, label)
    return policies


def _refuse_forgetting(policy: Policy, folder: Path, label: Observations) -> None:
    """Raise UserError where a policy of one's own that was saved decides otherwise than the fitted one."""
    if policy.source is None:
        return
    with own_errors(policy):
        again = load_policy(folder)
        dials: list[float | None] = [*policy.dials] or [None]
        for dial in dials:
            if not np.array_equal(again.decide(RecordedImages(label), dial), policy.decide(RecordedImages(label), dial)):
                raise UserError(f"{policy.name} forgets: _state and _restore must keep everything that _fit learns")


def expected(policies: list[Policy]) -> list[dict[str, Any]]:
    """For each policy the operating point of each objective, as estimated on held-out label images."""
    default = next(policy for policy in policies if policy.name == "default").points_[0]
    rows = []
    for policy in policies:
        for objective in OBJECTIVES if policy.dials else OBJECTIVES[:1]:
            point = policy.point(objective, default.accuracy, default.macs)
            assert point is not None
            rows.append({"policy": policy.name, "objective": objective if policy.dials else None} | asdict(point))
    return rows


def recommendations(policies: list[Policy]) -> list[str]:
    """For each objective the policy that serves it best by cross-validation, or that none beats the default."""
    choices = [choose(policies, objective) for objective in OBJECTIVES]
    return [f"For {OBJECTIVE_WORDS[choice.objective]}: {choice.sentence}" for choice in choices if choice is not None]
