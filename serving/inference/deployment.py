"""What a service serves: a network, its configurations, the policies that choose among them, the names of its classes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor

import dynamic
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.models import SLIM, LoadedNetwork, embedded_weights, load, scenes_transform
from dynamic.network import DynamicNetwork
from dynamic.scenes import CLASSES
from oracle.data.folders import class_folders, find_root
from oracle.data.views import View
from oracle.evaluation.collect import RunNetwork, fast_network, reopen_network
from oracle.settings import DTYPES
from selector.learning.training import FOLDER
from selector.observation.costs import Costs
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import OperatingPoint, Policy
from selector.policies.constant import Cheapest, Default
from selector.scoring.benchmark import RESULTS
from selector.shipped import SHIPPED
from serving.errors import Rejected
from serving.live.store import check_url
from serving.settings import ServingSettings, folder_of

FORCED = "forced"
"""Stands for a policy's name where the request names the configuration."""


@dataclass(frozen=True)
class Plan:
    """How a request's images find their configurations.

    Attributes:
        policy: name, or :data:`FORCED`.
        dial: the policy's setting.
        configuration: that is forced.
    """

    policy: str
    dial: float | None = None
    configuration: Configuration | None = None

    @property
    def label(self) -> str:
        """Of what answered, for the live gap: the policy at its setting."""
        return self.policy if self.dial is None else f"{self.policy}@{self.dial:g}"


@dataclass(frozen=True)
class Served:
    """Everything that answering needs.

    Attributes:
        name: of the run or network.
        key: name and digests: labels of answers by other weights or portfolios do not count.
        network: on its device, of its dtype, as :meth:`DynamicNetwork.for_inference` made it.
        transform: RGB picture to normalised (3, resolution, resolution) float32.
        resolution: in pixels.
        classes: names.
        configurations: all that can run.
        costs: of the portfolio.
        portfolio: that the policies choose among.
        policies: by name.
        active: unless a request says otherwise.
        dtype: of the network.
        device: of the network.
        results: of ``selector.benchmark``; None where there are none, and ``why_no_results`` says why.
    """

    name: str
    key: str
    network: DynamicNetwork
    transform: Callable[[Image.Image], Tensor]
    resolution: int
    classes: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    portfolio: tuple[Configuration, ...]
    costs: Costs
    policies: dict[str, Policy]
    active: Plan
    objective: str
    dtype: torch.dtype
    device: str
    results: dict[str, Any] | None
    why_no_results: str | None

    @property
    def default(self) -> Configuration:
        """What the network was trained with."""
        return self.network.default

    def macs(self, configuration: Configuration) -> int:
        """Of one image."""
        return self.network.costs.macs(configuration, self.resolution)

    def plan(
        self, policy: str | None = None, max_gmacs: float | None = None, configuration: str | None = None
    ) -> tuple[Plan, OperatingPoint | None]:
        """How to answer a request, and what is expected of it on images like the label images.

        Args:
            policy: by name; the active one unless given.
            max_gmacs: expected cost of an image on average, selector included: the most accurate operating point under it.
            configuration: id of the one to run.

        Raises:
            Rejected: an unknown name, a budget below the smallest possible, or two wishes that exclude each other.
        """
        if configuration is not None:
            if policy is not None or max_gmacs is not None:
                raise Rejected("invalid", "configuration is forced: give it alone, without policy and max_gmacs")
            return self._forced(configuration), None
        if policy is not None and policy not in self.policies:
            raise Rejected("invalid", f"policy must be one of {', '.join(self.policies)}, not {policy[:80]!r}")
        if max_gmacs is not None:
            return self._within(max_gmacs, policy)
        if policy is None:
            return self.active, self._point(self.active)
        return operating_plan(self.policies, policy, self.objective)

    def _forced(self, configuration: str) -> Plan:
        known = {c.id: c for c in self.configurations}
        if configuration not in known:
            few = f"one of {', '.join(known)}" if len(known) <= 32 else f"such as {self.default.id}, one of {len(known)}"
            raise Rejected("invalid", f"configuration must be {few}, not {configuration[:80]!r}")
        return Plan(FORCED, None, known[configuration])

    def _within(self, max_gmacs: float, policy: str | None) -> tuple[Plan, OperatingPoint | None]:
        names = list(self.policies) if policy is None else [policy]
        points = [(name, point) for name in names for point in self._points(name)]
        affordable = [(name, point) for name, point in points if point.macs <= max_gmacs * 1e9]
        if not affordable:
            least = min(point.macs for _, point in points) / 1e9
            whose = "" if policy is None else f" of {policy}"
            raise Rejected("invalid", f"max_gmacs={max_gmacs:g} is too small: the smallest possible{whose} is {up(least):g}")
        name, point = max(affordable, key=lambda found: (found[1].accuracy, -found[1].macs))
        policies = self.policies[name]
        return Plan(name, point.dial if policies.dials else None), point if policies.points_ else None

    def _points(self, name: str) -> Sequence[OperatingPoint]:
        policy = self.policies[name]
        if policy.points_:
            return policy.points_
        # A network without a run has constants only, and nobody knows their accuracy but that the default comes first.
        assert isinstance(policy, Default | Cheapest)
        return [OperatingPoint(0.0, float(name == "default"), float(self.costs.whole[policy.column_]))]

    def _point(self, plan: Plan) -> OperatingPoint | None:
        return next((p for p in self.policies[plan.policy].points_ if plan.dial in (None, p.dial)), None)


def up(gmacs: float) -> float:
    """The least number of four digits that is not below ``gmacs``, so that who asks for it gets it."""
    if gmacs <= 0:
        return 0.0
    step = 10.0 ** (np.floor(np.log10(gmacs)) - 3)
    return float(np.ceil(gmacs / step) * step)


def operating_plan(policies: dict[str, Policy], name: str, objective: str) -> tuple[Plan, OperatingPoint | None]:
    """A policy at the operating point of an objective."""
    policy = policies[name]
    static = policies["default"].points_
    if not policy.points_ or not static:
        return Plan(name), None
    point = policy.point(objective, static[0].accuracy, static[0].macs)  # type: ignore[arg-type]
    return Plan(name, point.dial if point and policy.dials else None), point


def check_named(settings: ServingSettings) -> None:
    """Find out cheaply, before any worker starts, whether what the settings name is there. Raises UserError if not."""
    check_url(settings.database)
    folder = folder_of(settings)
    if folder is None:
        _check_network(settings.network, settings.weights)
        names = ["default", "cheapest"]
    else:
        kept = folder if folder in SHIPPED.values() else folder / FOLDER
        if not (folder / "settings.json").exists() or not (kept / "policies").is_dir():
            raise UserError(
                f"SERVING_NETWORK={settings.network} holds no run with policies: python -m oracle.run --out {folder}, "
                f"python -m selector.train {folder}"
            )
        names = sorted(path.parent.name for path in (kept / "policies").glob("*/policy.json"))
    if settings.policy is not None and settings.policy not in names:
        raise UserError(f"SERVING_POLICY={settings.policy}: {settings.network} has {', '.join(names)}")


def _check_network(name: str, weights: str) -> None:
    known = {*SLIM, *torchvision.models.list_models(module=torchvision.models)}
    if name not in known and not name.startswith("timm/"):
        runs = ", ".join(SHIPPED)
        near = difflib.get_close_matches(name, [*known, *SHIPPED], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"SERVING_NETWORK={name} is neither a run ({runs}, or a folder that exists) nor a network of torchvision{hint}"
        )
    if name in known:
        _check_weights(name, weights)


def _check_weights(name: str, weights: str) -> None:
    known = [] if name in SLIM else [entry.name for entry in torchvision.models.get_model_weights(name)]
    if not (weights in ("default", "none", *known) or Path(weights).is_file() or embedded_weights(name, weights)):
        raise UserError(
            f"SERVING_WEIGHTS={weights} is neither a file nor of default, none{''.join(f', {k}' for k in known)}"
        )


def open_served(settings: ServingSettings) -> Served:
    """Load what the settings name.

    Raises:
        UserError: no such run or network, a run without policies, an unknown policy.
    """
    folder = folder_of(settings)
    return _from_run(settings, folder) if folder is not None else _from_name(settings)


def _from_run(settings: ServingSettings, folder: Path) -> Served:
    run = reopen_network(folder, device=settings.device)
    kept = folder if folder in SHIPPED.values() else folder / FOLDER
    policies = {policy.name: policy for policy in load_policies(kept / "policies")}
    portfolio = tuple(Configuration.parse(name) for name in policies["default"].portfolio_)
    results, why = _results(kept, folder)
    statistics = folder / "statistics.safetensors"
    recalibrated = sha256(statistics.read_bytes()).hexdigest()[:8] if run.settings.recalibrate else "own"
    return Served(
        name=folder.name,
        key=f"{folder.name} {run.network.digest} {recalibrated} {digest_of_policies(kept / 'policies')}",
        network=fast_network(run, packed=True),
        transform=_transform(run),
        resolution=run.resolution,
        classes=_class_names(run),
        configurations=run.configurations,
        portfolio=portfolio,
        costs=Costs(run.network, portfolio, run.resolution),
        policies=policies,
        active=_active(settings, policies),
        objective=settings.objective,
        dtype=DTYPES[run.settings.dtype],
        device=settings.device,
        results=results,
        why_no_results=why,
    )


def _from_name(settings: ServingSettings) -> Served:
    try:
        network = load(settings.network, None if settings.weights == "none" else settings.weights)
    except UserError as error:
        raise UserError(str(error).replace("--weights ", "SERVING_WEIGHTS=")) from error
    portfolio = tuple(dynamic.space("stride", network))
    costs = Costs(network, portfolio, network.info.resolution)
    columns: dict[type[Default | Cheapest], int] = {
        Default: portfolio.index(network.default),
        Cheapest: int(costs.whole.argmin()),
    }
    policies = {kind.name: _constant(kind(), portfolio, column) for kind, column in columns.items()}
    return Served(
        name=settings.network,
        key=f"{settings.network} {network.digest}",
        network=network.for_inference(settings.device, packed=True),
        transform=network.info.transform,
        resolution=network.info.resolution,
        classes=_names_of(network),
        configurations=portfolio,
        portfolio=portfolio,
        costs=costs,
        policies=policies,
        active=_active(settings, policies),
        objective=settings.objective,
        dtype=torch.float32,
        device=settings.device,
        results=None,
        why_no_results=f"{settings.network} is served without a run: make one with python -m oracle.run, then "
        "selector.train and selector.benchmark, and serve its folder",
    )


def _active(settings: ServingSettings, policies: dict[str, Policy]) -> Plan:
    chosen = settings.policy or ("cascade" if "cascade" in policies else "default")
    if chosen not in policies:
        raise UserError(f"SERVING_POLICY={chosen}: {settings.network} has {', '.join(policies)}")
    return operating_plan(policies, chosen, settings.objective)[0]


def _constant(policy: Default | Cheapest, portfolio: Sequence[Configuration], column: int) -> Policy:
    policy.portfolio_, policy.fitted_on_, policy.points_ = tuple(c.id for c in portfolio), frozenset(), ()
    policy.column_ = column
    return policy


def _results(kept: Path, folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    command = f"run python -m selector.benchmark {folder.name}"
    path = kept / RESULTS
    if not path.exists():
        return None, f"the run was not benchmarked: {command}"
    results: dict[str, Any] = json.loads(path.read_text())
    if results.get("policies_digest") != digest_of_policies(kept / "policies"):
        return None, f"the run's policies were trained again since it was benchmarked: {command}"
    return results, None


def _transform(run: RunNetwork) -> Callable[[Image.Image], Tensor]:
    """What the run did to its images: the data set's transform, then the run's view."""
    settings = run.settings
    base = scenes_transform() if settings.dataset == "fashion-scenes" else run.network.info.transform
    view = View(settings.crop, settings.resize)
    if view == View():
        return base
    centre = np.full((1, 2), 0.5, np.float32)
    return lambda picture: view.apply(base(picture)[None], centre)[0]


def _class_names(run: RunNetwork) -> tuple[str, ...]:
    settings = run.settings
    if settings.dataset == "fashion-scenes":
        return CLASSES
    if settings.dataset == "imagefolder":
        try:
            root = find_root(settings.data_dir or Path(), settings.dataset, "val")
            index = class_folders(root, run.network.info, settings.class_map)
        except (UserError, OSError):
            index = {}  # the images are elsewhere now
        names = {position: folder for folder, position in index.items()}
        return tuple(names.get(position, f"class {position}") for position in range(run.network.info.classes))
    return _names_of(run.network)


def _names_of(network: LoadedNetwork) -> tuple[str, ...]:
    if network.info.slim and network.info.classes == len(CLASSES):
        return CLASSES
    if network.info.classes == 1000 and not network.info.slim:
        return tuple(torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    return tuple(f"class {position}" for position in range(network.info.classes))
