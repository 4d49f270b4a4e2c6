"""One set of outcomes: a network, images and spaces, evaluated into ``outcomes.zarr`` or found there."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import dynamic
from dynamic import pictures
from dynamic.configuration import Space, identity_of_attributes
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.models import LoadedNetwork, identity_of
from dynamic.models.copies import require_copy
from dynamic.models.own_code import CodeName
from dynamic.norms import Statistics
from oracle.data.sources import SPLITS, ImageSource
from oracle.evaluation.doing import done
from oracle.evaluation.evaluate import OutcomesJob, Region, WalkSize, progress_of, seconds_for, store_region
from oracle.evaluation.extension import make_room
from oracle.evaluation.jobs import Task
from oracle.evaluation.statistics import Asked, estimated
from oracle.outcomes import PENDING, OutcomesStore, blocks, open_outcomes
from oracle.run_record import OWN, NetworkRecord, RunRecord
from oracle.runs import Run, open_images, tell_of_old_pictures, write_weights
from oracle.settings import DTYPES, RunSettings, load_for

_KEPT = (
    "model weights dynamic_layers resolution mean std preprocessing dataset data_dir class_map regime space images "
    "recalibrate recalibrate_regime keep_default resize crop seed dtype"
).split()
"""Settings that a run remembers."""


@dataclass(frozen=True)
class Collection:
    """Everything that one set of outcomes needs, opened and checked but not yet run.

    Attributes:
        settings: what was asked for; ``settings.out`` is the folder.
        network: loaded.
        own_network: the network is a module of the caller's own, which no name builds.
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
    def run(self) -> Run:
        """The folder that it is evaluated into."""
        return Run(self.settings.out)


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
    own_network = network is not None and network.info.own
    if network is None:
        network = load_for(settings, settings.dataset, settings.seed)
    source = open_images(settings, network.info, splits)
    return Collection(
        settings, network, source, spaces or make_spaces(settings.space, network, source.resolution), own_network
    )


def make_spaces(names: str, network: LoadedNetwork, resolution: int | None = None) -> list[Space]:
    """The spaces that ``--space`` names, without what the network cannot run on images of ``resolution``, else its own.

    Raises:
        UserError: one is wrong, twice there, or lacks the default, or nothing else is left of it.
    """
    spaces = [dynamic.space(name, network, resolution) for name in names.split(",") if name]
    if not spaces or len({space.name for space in spaces}) < len(spaces):
        raise UserError(f"--space {names!r}: name one or several different spaces, separated by commas")
    for space in spaces:
        if network.default not in space:
            raise UserError(
                f"the space {space.name!r} lacks the default {network.default.id}, the baseline of every comparison"
            )
    return spaces


def collect(collection: Collection) -> xr.Dataset:
    """The outcomes: what is on disk already, and what is missing evaluated into it.

    Raises:
        UserError: the folder holds another run, or a finished one that was damaged; or a copy of the file of a network of
            one's own would not make it again.
    """
    return collect_all([collection])[0]


def collect_all(collections: Sequence[Collection]) -> list[xr.Dataset]:
    """:func:`collect` of several at once, with the options of the first for Ray; in one process one after the other."""
    opened = [_Opened.of(collection) for collection in collections]
    unfinished = [one for one in opened if not one.finished]
    wanting = [one for one in unfinished if one.wants_statistics]
    for one, statistics in zip(wanting, estimated([one.asked for one in wanting]), strict=True):
        statistics.save(one.collection.run.statistics_file)
        one.statistics = statistics
    for one in unfinished:
        one.describe()
    pending = [one for one in unfinished if one.store.pending()]
    if pending:
        _evaluate(pending)
    return [one.outcomes() for one in opened]


class _Opened:
    """A run whose folder is open: its store, what it said of itself before, its statistics."""

    def __init__(self, collection: Collection, store: OutcomesStore, before: RunRecord | None) -> None:
        self.collection, self.store, self._before = collection, store, before
        self._started = bool((store.status != PENDING).any())
        self.finished = before is not None and not store.pending() and bool(before.files)
        self.statistics: Statistics | None = None
        file = collection.run.statistics_file
        if collection.settings.recalibrate and not self.finished and self._started and file.exists():
            self.statistics = Statistics.load(file)

    @classmethod
    def of(cls, collection: Collection) -> _Opened:
        network, run = collection.network, collection.run
        code, file = CodeName.parse(network.info.name), network.info.file
        if code is not None and file is not None and not run.outcomes_store.exists():
            require_copy(file, code.name, network.info.neighbours, network.info.classes)
        store = _open_store(collection, collection.union)
        return cls(collection, store, run.record if run.record_file.exists() else None)

    @property
    def wants_statistics(self) -> bool:
        return bool(self.collection.settings.recalibrate) and self.statistics is None

    @property
    def asked(self) -> Asked:
        collection = self.collection
        return Asked(
            settings=collection.settings,
            network=collection.network,
            configurations=collection.union,
            resolution=collection.source.resolution,
        )

    def describe(self) -> None:
        """Leave everything in the folder that the run needs beside its outcomes."""
        settings, network, run = self.collection.settings, self.collection.network, self.collection.run
        record = _record(self.collection, self.store, self.statistics)
        if self._before is not None and self._started:
            _require_same(self._before, record, settings.out)
            tell_of_old_pictures(settings.out, self._before)
        if network.info.registered is None:
            write_weights(network, run.weights_file)
        if network.info.file is not None:
            write_whole(run.network_file, network.info.code)
            if network.info.neighbours:
                print(
                    f"{network.info.file} imported {', '.join(network.info.neighbours)} beside it, which the run does not "
                    f"keep: copy them into {settings.out} to open it elsewhere",
                    file=sys.stderr,
                )
        if settings.class_map is not None:
            write_whole(run.class_map_file, settings.class_map.read_bytes())
        run.keep_attributes(self.collection.union)
        run.write_record(record)

    def task(self) -> Task[Region]:
        """What is missing."""
        settings, network, source = self.collection.settings, self.collection.network, self.collection.source
        job = OutcomesJob(
            configurations=self.collection.union,
            size=WalkSize(**self.store.facts["walk"]),
            dtype=settings.dtype,
            threads=torch.get_num_threads(),
            statistics=self.statistics,
        )
        return Task(settings=settings, network=network, source=source, job=job, regions=self.store.pending())

    def outcomes(self) -> xr.Dataset:
        """Read what is complete now, and vouch for it."""
        run = self.collection.run
        if self.finished and self._before is not None:
            run.verify_all()
            if self._before.settings != (now := _kept_settings(self.collection)):  # the images may have moved
                run.write_record(replace(self._before, settings=now))
            return run.outcomes()
        (run.folder / "settings.json").unlink(missing_ok=True)  # of an earlier version, whose place run.json takes
        outcomes = open_outcomes(run.outcomes_store)
        sum(1 for _ in blocks(outcomes))  # read before the seal, which must not vouch for what cannot be read
        run.seal()
        return outcomes


def _evaluate(runs: Sequence[_Opened]) -> None:
    """Evaluate what is missing, here or on a Ray cluster, and store it."""
    tasks, first = [one.task() for one in runs], runs[0].collection
    what = f"{len(first.union)} configurations" if len(runs) == 1 else f"{len(runs)} sets"
    with (
        progress_of([one.store for one in runs], what) as progress,
        closing(done(tasks, first.settings, progress)) as regions,
    ):
        for position, region in regions:
            store_region(region, runs[position].store, progress)
    assert not any(one.store.pending() for one in runs)


def _require_same(before: RunRecord, now: RunRecord, folder: Path) -> None:
    """Raise UserError where a run that has begun would go on with other statistics or preprocessing."""
    for name in ("statistics", "preprocessing"):
        if getattr(before, name) != getattr(now, name):
            raise UserError(
                f"the run in {folder} began with other {name} ({getattr(before, name)} there, {getattr(now, name)} here): "
                "restore what it began with, or choose another --out"
            )


def _kept_settings(collection: Collection) -> dict[str, Any]:
    """What a run remembers of its settings, JSON-ready; folders as absolute paths."""
    settings, network = collection.settings, collection.network
    kept: dict[str, Any] = {key: value for key, value in asdict(settings).items() if key in _KEPT}
    kept |= {"model": network.info.name, "dynamic_layers": ",".join(network.dynamic_layers)}
    kept["space"] = ",".join(space.name for space in collection.spaces)  # the store has what a file listed
    for name in ("data_dir", "class_map"):
        kept[name] = None if kept[name] is None else str(Path(kept[name]).resolve())
    return kept


def _record(collection: Collection, store: OutcomesStore, statistics: Statistics | None) -> RunRecord:
    network, source, run = collection.network, collection.source, collection.run
    return RunRecord(
        settings=_kept_settings(collection),
        images=dict(source.identity),
        network=NetworkRecord(
            model=network.info.name,
            dynamic_layers=network.dynamic_layers,
            classes=network.info.classes,
            weights=network.info.weights,
            registered=network.info.registered,
            digest=network.digest,
            slim=network.info.slim,
            own=collection.own_network,
            file=None if network.info.file is None else run.network_file.name,
            neighbours=dict(network.info.neighbours),
        ),
        class_names=source.class_names,
        preprocessing=source.preprocessing,
        resolution=source.resolution,
        statistics=OWN if statistics is None else statistics.digest,
        versions=dict(store.facts["versions"]),
    )


def estimate(collection: Collection) -> float:
    """Seconds that :func:`collect` will take, from a short trial; 0 where the outcomes are there."""
    settings, source = collection.settings, collection.source
    union = collection.union
    left = len(source.keys)
    if collection.run.outcomes_store.exists():
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
        **identity_of(network.info),
        "space": f"{union.name} ({len(union)} configurations, {union.digest})",
        **identity_of_attributes(union),
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
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pictures": pictures.VERSION},
    }
    macs = network.costs.of_space(union, source.resolution)
    make_room(collection.run, settings, network.info, source, union, macs, identity)
    return OutcomesStore(collection.run.outcomes_store, source, union, macs, identity, facts, settings.region)
