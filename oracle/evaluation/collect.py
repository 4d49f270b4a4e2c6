"""One set of outcomes: a network, images and spaces, evaluated into ``outcomes.zarr`` or found there."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr

import dynamic
from dynamic.configuration import Configuration, Space
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.models.loading import LoadedNetwork, load
from dynamic.network import DynamicNetwork
from dynamic.norms import Statistics
from dynamic.recalibration import BATCH, recalibrate
from oracle.data.sources import SPLITS, ImageSource, open_source
from oracle.data.views import View, unlabelled, view_source
from oracle.evaluation.evaluate import WalkSize, evaluate, memory_budget, seconds_for
from oracle.evaluation.outcomes import PENDING, OutcomesStore, compare_identity, open_group, read_outcomes
from oracle.settings import DTYPES, SCENES_IMAGES, RunSettings

SMALLEST_BATCH = 16
"""Images that batch-norm statistics are estimated on together, at least."""

SETTINGS = "settings.json"
_REOPENED = (
    "model weights dynamic_layers dataset data_dir class_map regime space images recalibrate recalibrate_regime "
    "keep_default resize crop seed dtype"
).split()
_WHERE = ("device", "dtype", "memory_gib", "region", "space")
"""Of a store's identity: what a run that is reopened may change, and the space, which is read from the store."""


@dataclass(frozen=True)
class Collection:
    """Everything that one set of outcomes needs, opened and checked but not yet run.

    Attributes:
        settings: what was asked for; ``settings.out`` is the folder.
        network: loaded.
        own_network: the network was given, not named by the settings.
        source: the images.
        spaces: to study; they share prefixes, so one walk runs their ``union``.
    """

    settings: RunSettings
    network: LoadedNetwork
    source: ImageSource
    spaces: list[Space]
    own_network: bool = False

    @property
    def union(self) -> Space:
        """All configurations of all spaces."""
        return Space("+".join(space.name for space in self.spaces), [c for space in self.spaces for c in space])

    @property
    def path(self) -> Path:
        """Of the outcomes."""
        return self.settings.out / "outcomes.zarr"


def open_collection(
    settings: RunSettings,
    network: LoadedNetwork | None = None,
    splits: tuple[str, ...] = SPLITS,
    spaces: list[Space] | None = None,
) -> Collection:
    """Load the network, open the images, make the spaces.

    Args:
        settings: what to run.
        network: run this one instead of what the settings name.
        splits: run only these.
        spaces: study these instead of what the settings name.

    Raises:
        UserError: whatever is wrong with the settings.
    """
    own_network = network is not None
    if network is None:
        network = _load(settings)
    images = settings.images
    if images is None and settings.dataset == "fashion-scenes":
        images = SCENES_IMAGES
    source = open_source(
        settings.dataset,
        network.info,
        images=images,
        data_dir=settings.data_dir,
        regime=settings.regime,
        seed=settings.seed,
        class_map=settings.class_map,
    )
    source = view_source(source, View(settings.crop, settings.resize, splits))
    return Collection(settings, network, source, spaces or make_spaces(settings.space, network), own_network)


def make_spaces(names: str, network: LoadedNetwork) -> list[Space]:
    """The spaces that ``--space`` names. Raises UserError where one is wrong, twice there, or lacks the default."""
    spaces = [dynamic.space(name, network) for name in names.split(",") if name]
    if not spaces or len({space.name for space in spaces}) < len(spaces):
        raise UserError(f"--space {names!r}: name one or several different spaces, separated by commas")
    for space in spaces:
        if network.default not in space:
            raise UserError(
                f"the space {space.name!r} lacks the default {network.default.id}, the baseline of every comparison"
            )
    return spaces


def collect(collection: Collection) -> xr.Dataset:
    """The outcomes: what is on disk already, and what is missing evaluated into it."""
    settings, network, source = collection.settings, collection.network, collection.source
    union = collection.union
    store = _open_store(collection, union)
    kept = {key: value for key, value in asdict(settings).items() if key in _REOPENED}
    kept["space"] = ",".join(space.name for space in collection.spaces)  # the store has what a file listed
    write_whole(settings.out / SETTINGS, json.dumps(kept, indent=1, default=str).encode())
    if store.pending():
        size = WalkSize(**store.facts["walk"])
        dtype = DTYPES[settings.dtype]
        started = bool((store.status != PENDING).any())
        statistics = _statistics(collection, union, started) if settings.recalibrate else None
        fast = network.for_inference(settings.device, dtype, statistics)
        evaluate(fast, source, union, store, size, settings.device, dtype)
    return read_outcomes(settings.out)


def reopen(
    run: Path, *, device: str = "cpu", data_dir: Path | None = None, network: LoadedNetwork | None = None
) -> Collection:
    """The network, images and configurations of a run that was made earlier.

    Args:
        run: its folder.
        device: where to run from now on.
        data_dir: where its images are now; unless given, where they were.
        network: the one it was made with, if that was given in Python.

    Raises:
        UserError: no run there, or the network, weights or images are no longer those it was made with.
    """
    settings = _stored_settings(run, device, data_dir)
    group = open_group(run / "outcomes.zarr")
    collection = open_collection(settings, network, spaces=[Space(settings.space, _stored_configurations(group))])
    theirs, mine = (
        {k: v for k, v in facts.items() if k not in _WHERE}
        for facts in (_stored_identity(group), store_identity(collection))
    )
    compare_identity(run / "outcomes.zarr", theirs, mine)
    return collection


@dataclass(frozen=True)
class RunNetwork:
    """The network of a run without the run's images: what a service needs.

    Attributes:
        settings: of the run.
        network: loaded.
        configurations: that the run evaluated.
        resolution: of the run's images in pixels.
    """

    settings: RunSettings
    network: LoadedNetwork
    configurations: tuple[Configuration, ...]
    resolution: int


def reopen_network(run: Path, *, device: str = "cpu") -> RunNetwork:
    """The network and configurations of a run, wherever its images are now; raises UserError as :func:`reopen` does."""
    settings = _stored_settings(run, device, None)
    group = open_group(run / "outcomes.zarr")
    identity = _stored_identity(group)
    network = _load(settings)
    theirs = {key: identity[key] for key in ("model", "dynamic_layers", "weights_digest")}
    mine = {"model": network.info.name, "dynamic_layers": ",".join(network.dynamic_layers), "weights_digest": network.digest}
    compare_identity(run / "outcomes.zarr", theirs, mine)
    return RunNetwork(settings, network, tuple(_stored_configurations(group)), int(identity["resolution"]))


def _stored_settings(run: Path, device: str, data_dir: Path | None) -> RunSettings:
    path = run / SETTINGS
    if not path.exists():
        raise UserError(f"no {SETTINGS} in {run}: make the run with python -m oracle.run --out {run}")
    try:
        stored = json.loads(path.read_text())
        folders = {key: Path(stored[key]) for key in ("data_dir", "class_map") if stored.get(key)}
        if data_dir is not None:
            folders["data_dir"] = data_dir
        return RunSettings(**(stored | folders | {"out": run, "device": device}))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): make the run again") from error


def _stored_configurations(group: zarr.Group) -> list[Configuration]:
    return [Configuration.parse(str(name)) for name in np.asarray(group["configuration"][:])]  # type: ignore[index]


def _stored_identity(group: zarr.Group) -> dict[str, str]:
    return {str(key): str(group.attrs[str(key)]) for key in group.attrs["identity"]}  # type: ignore[union-attr]


def _load(settings: RunSettings) -> LoadedNetwork:
    torch.manual_seed(settings.seed)  # for random weights
    layers = [name.strip() for name in settings.dynamic_layers.split(",") if name.strip()]
    return load(settings.model, None if settings.weights == "none" else settings.weights, layers or None)


def fast_network(opened: Collection | RunNetwork, packed: bool = False) -> DynamicNetwork:
    """The run's network for its device and dtype, with the run's statistics; ``packed`` for small batches on a CPU."""
    settings = opened.settings
    statistics = Statistics.load(settings.out / "statistics.safetensors") if settings.recalibrate else None
    return opened.network.for_inference(settings.device, DTYPES[settings.dtype], statistics, packed)


def _statistics(collection: Collection, union: Space, started: bool) -> Statistics:
    """Recalibrated batch-norm statistics: those of ``statistics.safetensors``, or estimated and stored there."""
    path = collection.settings.out / "statistics.safetensors"
    if path.exists() and started:
        return Statistics.load(path)
    settings = collection.settings
    images = unlabelled(label_source(settings, collection.network), settings.recalibrate)
    row = collection.network.costs.row_bytes(union, collection.source.resolution)
    affordable = int(memory_budget(settings.device, settings.memory_gib) // row)
    # Fewer threads before smaller batches: those make poorer statistics.
    batch = min(BATCH, affordable)
    if batch < min(SMALLEST_BATCH, len(images)):
        raise UserError(
            f"recalibration runs at least {SMALLEST_BATCH} images together, which need about "
            f"{SMALLEST_BATCH * row / 2**30:.1f} GiB: raise --memory-gib or choose a smaller space or resolution"
        )
    cores = os.cpu_count() or 1 if torch.device(settings.device).type == "cpu" else 1
    statistics = recalibrate(
        collection.network,
        images,
        union,
        batch=batch,
        max_rows=batch,
        device=settings.device,
        threads=max(1, min(cores, affordable // batch, -(-len(images) // batch))),
        keep_default=settings.keep_default,
    )
    statistics.save(path)
    return statistics


def label_source(settings: RunSettings, network: LoadedNetwork) -> ImageSource:
    """The label split of a run, as the network sees it."""
    source = open_source(
        settings.dataset,
        network.info,
        images=settings.recalibrate,
        data_dir=settings.data_dir,
        regime=settings.recalibrate_regime or settings.regime,
        seed=settings.seed,
        class_map=settings.class_map,
    )
    return view_source(source, View(settings.crop, settings.resize, ("label",)))


def estimate(collection: Collection) -> float:
    """Seconds that :func:`collect` will take, from a short trial; 0 where the outcomes are there."""
    settings, source = collection.settings, collection.source
    union = collection.union
    left = len(source.keys)
    if collection.path.exists():
        left = sum(map(len, _open_store(collection, union).pending()))
    if not left:
        return 0.0
    recalibrated = settings.recalibrate if left == len(source.keys) else 0
    size = walk_size(collection, union)
    fast = collection.network.for_inference(settings.device, DTYPES[settings.dtype])
    return seconds_for(fast, source, union, size, settings.device, DTYPES[settings.dtype], left + 1.3 * recalibrated)


def walk_size(collection: Collection, union: Space) -> WalkSize:
    """How much may run at once; see :class:`oracle.evaluation.evaluate.WalkSize`."""
    settings = collection.settings
    return WalkSize.fitting(
        collection.network,
        union,
        collection.source.resolution,
        settings.region,
        settings.device,
        settings.memory_gib,
        DTYPES[settings.dtype],
    )


def store_identity(collection: Collection) -> dict[str, str]:
    """What must agree for a run to be resumed."""
    settings, network, source, union = collection.settings, collection.network, collection.source, collection.union
    return {
        "model": network.info.name,
        "dynamic_layers": ",".join(network.dynamic_layers),
        "weights_digest": network.digest,
        "space": f"{union.name} ({len(union)} configurations, {union.digest})",
        "resolution": str(source.resolution),
        "dtype": settings.dtype,
        "device": torch.device(settings.device).type,
        "memory_gib": str(settings.memory_gib or "half of what is free"),
        "region": str(settings.region),
        **({"recalibrate": str(settings.recalibrate)} if settings.recalibrate else {}),
        **({"recalibrate_regime": settings.recalibrate_regime} if settings.recalibrate_regime else {}),
        **({"keep_default": "yes"} if settings.keep_default else {}),
        **source.identity,
    }


def _open_store(collection: Collection, union: Space) -> OutcomesStore:
    settings, network, source = collection.settings, collection.network, collection.source
    identity = store_identity(collection)
    size = walk_size(collection, union)
    facts = {
        "weights": network.info.weights,
        "classes": network.info.classes,
        "slim": network.info.slim,
        "stand_in": source.stand_in,
        "walk": asdict(size),
        "batch_norm": f"statistics by prefix, from {settings.recalibrate} images" if settings.recalibrate else "folded",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    macs = network.costs.of_space(union, source.resolution)
    return OutcomesStore(collection.path, source, union, macs, identity, facts, settings.region)
