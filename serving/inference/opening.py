"""Opens what the settings name: a run's folder or a network's name. Nothing else in ``serving`` reads a run folder."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
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
from dynamic.models.loading import SLIM, LoadedNetwork, embedded_weights, load, scenes_transform
from dynamic.scenes import CLASSES
from oracle.data.sources import class_folders, find_root
from oracle.data.views import View
from oracle.evaluation.collect import RunNetwork, fast_network, reopen_network
from oracle.settings import DTYPES
from selector.learning.training import FOLDER
from selector.observation.costs import Costs
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy
from selector.policies.constant import Cheapest, Default
from selector.scoring.benchmark import RESULTS
from selector.shipped import SHIPPED
from serving.inference.deployment import Deployment
from serving.inference.plans import Plan, operating_plan
from serving.live.store import check_url
from serving.settings import ServingSettings


def folder_of(settings: ServingSettings) -> Path | None:
    """The folder of the run that is served; None for a network given by its name."""
    path = SHIPPED.get(settings.network, Path(settings.network))
    return path if path.is_dir() else None


def check_before_start(settings: ServingSettings) -> None:
    """Find out cheaply, before any worker starts, whether the network, policy and database of the settings can be.

    Raises:
        UserError: naming the setting that is wrong and what would be right.
    """
    check_url(settings.database)
    folder = folder_of(settings)
    if folder is None:
        _check_network(settings.network, settings.weights)
        names = ["default", "cheapest"]
    else:
        kept = _policies_folder(folder)
        if not (folder / "settings.json").exists() or not (settings.static or (kept / "policies").is_dir()):
            raise UserError(
                f"SERVING_NETWORK={settings.network} holds no run with policies: python -m oracle.run --out {folder}, "
                f"python -m selector.train {folder}"
            )
        names = sorted(path.parent.name for path in (kept / "policies").glob("*/policy.json"))
    _check_policy(settings, ["default"] if settings.static else names)


def _check_policy(settings: ServingSettings, names: Sequence[str]) -> None:
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


def open_deployment(settings: ServingSettings) -> Deployment:
    """Load what the settings name.

    Raises:
        UserError: no such run or network, a run without policies, an unknown policy.
    """
    folder = folder_of(settings)
    if folder is None:
        return _from_name(settings)
    return _static(settings, folder) if settings.static else _from_run(settings, folder)


def _from_run(settings: ServingSettings, folder: Path) -> Deployment:
    run = reopen_network(folder, device=settings.device)
    kept = _policies_folder(folder)
    policies = {policy.name: policy for policy in load_policies(kept / "policies")}
    portfolio = tuple(Configuration.parse(name) for name in policies["default"].portfolio_)
    results, why = _results(kept, folder)
    statistics = folder / "statistics.safetensors"
    recalibrated = sha256(statistics.read_bytes()).hexdigest()[:8] if run.settings.recalibrate else "own"
    return Deployment(
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


def _static(settings: ServingSettings, folder: Path) -> Deployment:
    """The network of a run as one would deploy it without this project: one configuration, its own batch norms, folded."""
    run = reopen_network(folder, device=settings.device)
    portfolio = (run.network.default,)
    costs = Costs(run.network, portfolio, run.resolution)
    policies = _constants(portfolio, costs, run.network.default, [Default])
    dtype = DTYPES[run.settings.dtype]
    return Deployment(
        name=f"{folder.name}-static",
        key=f"{folder.name}-static {run.network.digest}",
        network=run.network.for_inference(settings.device, dtype, packed=True),
        transform=_transform(run),
        resolution=run.resolution,
        classes=_class_names(run),
        configurations=portfolio,
        portfolio=portfolio,
        costs=costs,
        policies=policies,
        active=_active(settings, policies),
        objective=settings.objective,
        dtype=dtype,
        device=settings.device,
        results=None,
        why_no_results=f"SERVING_STATIC=true serves the default of {folder.name} alone, which leaves nothing to compare",
    )


def _from_name(settings: ServingSettings) -> Deployment:
    try:
        network = load(settings.network, None if settings.weights == "none" else settings.weights)
    except UserError as error:
        raise UserError(str(error).replace("--weights ", "SERVING_WEIGHTS=")) from error
    portfolio = (network.default,) if settings.static else tuple(dynamic.space("stride", network))
    costs = Costs(network, portfolio, network.info.resolution)
    policies = _constants(portfolio, costs, network.default, [Default] if settings.static else [Default, Cheapest])
    return Deployment(
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


def _active(settings: ServingSettings, policies: Mapping[str, Policy]) -> Plan:
    _check_policy(settings, list(policies))
    chosen = settings.policy or ("cascade" if "cascade" in policies else "default")
    return operating_plan(policies, chosen, settings.objective)[0]


def _constants(
    portfolio: Sequence[Configuration],
    costs: Costs,
    default: Configuration,
    kinds: Sequence[type[Default] | type[Cheapest]],
) -> dict[str, Policy]:
    """Policies that need no learning, by name; their accuracy is unknown."""
    policies: dict[str, Policy] = {}
    for kind in kinds:
        policy = kind()
        policy.portfolio_, policy.fitted_on_, policy.points_ = tuple(c.id for c in portfolio), frozenset(), ()
        policy.column_ = portfolio.index(default) if kind is Default else int(costs.whole.argmin())
        policies[policy.name] = policy
    return policies


def _policies_folder(folder: Path) -> Path:
    return folder if folder in SHIPPED.values() else folder / FOLDER


def _results(kept: Path, folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What was measured of the policies; or None, and why not."""
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
