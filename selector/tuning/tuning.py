"""The steps of ``python -m selector.tune``, each a function that has a command of its own."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamic.configuration import Space
from dynamic.errors import UserError
from dynamic.integrity import write_record
from dynamic.lock import held
from dynamic.models import LoadedNetwork
from oracle.data.sources import ImageSource
from oracle.data.training_images import open_training_images
from oracle.evaluation.collect import Collection, collect, estimate, open_collection
from oracle.evaluation.ray_workers import cluster
from oracle.pipeline import run as run_oracle
from oracle.runs import Run, open_images
from oracle.settings import load_for
from oracle.training.fine_tuning import fine_tune
from oracle.training.settings import RofSettings
from selector.compiling.timing import size_pool, stopwatch_on_graphs
from selector.learning.training import TrainSettings, train
from selector.policies import digest_of_policies
from selector.scoring.benchmark import BenchmarkSettings, benchmark
from selector.scoring.results import read_results
from selector.tuning.looking import about_images, about_network
from selector.tuning.record import TuneRecord, training_key
from selector.tuning.searching import final_settings, search, search_key, searches, write_portfolio
from selector.tuning.settings import TuneSettings

_FIT_SECONDS, _LABEL_SECONDS = 30, 0.03
"""Of fitting the usual policies, and for each label image: about what two cores take."""


def tune(settings: TuneSettings) -> dict[str, Any]:
    """From a network and images to a run with ranked policies; returns what the benchmark says of it.

    Beside that, ``about_default`` says what the search found of its statistics, and ``before_distillation`` is the accuracy
    before.

    Whatever is on disk already is not made again.

    Raises:
        UserError: whatever is wrong with network, images or options, before the first long step where it can be; another
            process that works in the folder.

    >>> result = tune(TuneSettings(images=20, space="stride"))  # doctest: +SKIP
    """
    with held(settings.out), cluster(settings):
        return _tune(settings)


def _tune(settings: TuneSettings) -> dict[str, Any]:
    if settings.timing:
        size_pool()
    record = TuneRecord(settings.out)
    network = load_for(settings, settings.images_of, settings.seed)
    source = open_images(settings.run, network.info)
    images_said = about_images(settings, source)
    training_images = _training_images(settings, network) if settings.distil else 0
    before = None
    record.begin(settings)
    _say(*images_said)
    spared = int((source.splits == "label").sum()) // 2  # for what is promised of what the search finds
    settings = replace(settings, search_images=max(min(settings.search_images, spared), 1))
    if settings.distil:
        before = _default_accuracy(settings, network)
        _head("distil", f"{settings.distil} epochs on {training_images} training images")
        settings = settings.with_weights(_distilled(settings))
        network = load_for(settings, settings.images_of, settings.seed)
    portfolio = settings.out / "portfolio.json"
    searched = record.noted("search")
    known = searched is not None and "searched_on" in searched  # by an earlier version it was not
    if not known or searched["key"] != search_key(settings, network, searched["images"]) or not portfolio.exists():
        record.note("search", _search(settings, network, source, portfolio))
    searched = record.noted("search")
    _say(*searched["said"])

    _head("evaluate", f"{searched['candidates']} candidates on {len(source.keys)} images")
    summary = run_oracle(final_settings(settings, searched["recalibrate"], searched["keep_default"], portfolio), network)
    if summary["unreadable"]["count"]:
        _say(f"{summary['unreadable']['count']} images could not be read and are left out; summary.json names them")
    run = Run.open(settings.out)
    write_record(run.chosen_on, {"images": searched["searched_on"]})

    key = training_key(settings, run)
    if record.noted("trained") != key:
        _head("train", settings.policies)
        record.note("trained", None)  # before they go: a kill must not leave a note of what is no longer there
        record.note("ranked", None)
        shutil.rmtree(run.policies, ignore_errors=True)  # of other options
        train(_train_settings(settings))
        record.note("trained", key)
    policies, images = digest_of_policies(run.policies), run.record.images["images"]
    ranked = f"{policies} on {images} {'with' if settings.timing else 'without'} milliseconds"
    if record.noted("ranked") != ranked:
        _head("rank", "each policy once on the test images")
        benchmark(_benchmark_settings(settings), stopwatch_on_graphs)
        record.note("ranked", ranked)
    distilled = {} if before is None else {"before_distillation": before}
    return read_results(run) | distilled | {"about_default": searched["about_default"]}


def _default_accuracy(settings: TuneSettings, network: LoadedNetwork) -> float:
    """Of the network as it was brought, on the test images: what distillation is to be compared with."""
    made = replace(settings.run, out=Run(settings.out).set("before").folder)
    alone = open_collection(made, network, ("test",), [Space("default", [network.default])])
    outcomes = collect(alone)
    return float((outcomes["predicted"].values[:, 0] == outcomes["label"].values).mean())


def _search(settings: TuneSettings, network: LoadedNetwork, source: ImageSource, portfolio: Path) -> dict[str, Any]:
    """Say what there is and how long it takes, try the space, and list its candidates; returns what came of it."""
    collections, about_default = searches(settings, network)
    _say(*about_network(network, collections[0].spaces, source.resolution), _plan(settings, collections, source))
    _head("search", f"{len(collections[0].union)} configurations on {len(collections[0].source.keys)} label images")
    outcomes, made, said = search(collections, network.default.id)
    candidates = write_portfolio(outcomes, network, settings.candidates, portfolio)
    labels = min(settings.search_images, settings.run.images or settings.search_images)
    return {
        "key": search_key(settings, network, labels),
        "images": labels,
        "searched_on": list(map(str, collections[0].source.keys)),
        "recalibrate": made.recalibrate,
        "keep_default": made.keep_default,
        "candidates": len(candidates),
        "about_default": about_default,
        "said": [*filter(None, [about_default]), *said, f"candidates: {', '.join(candidates)}"],
    }


def _training_images(settings: TuneSettings, network: LoadedNetwork) -> int:
    """How many there are to distil on. Raises UserError where there are none."""
    found = open_training_images(
        settings.images_of, network.info, settings.data_dir, settings.class_map, None, settings.seed, settings.regime
    )
    if len(found) < 2:
        raise UserError("--distil needs at least two training images: add some to train/, or leave --distil out")
    return len(found)


def _distilled(settings: TuneSettings) -> str:
    """The weights after distillation over the space, from the default as teacher: a file in OUT."""
    shared = {name: getattr(settings, name) for name in ("data_dir", "class_map", "regime", "space", "seed", "device")}
    made = RofSettings(
        **settings.network,
        **shared,
        dataset=settings.images_of,
        method="distillation",
        cost_limit=1.0,
        epochs=settings.distil,
        drop_after=max(1, settings.distil * 2 // 3),
        out=settings.out / "distilled",
    )
    return str(fine_tune(made)["weights"])


def _train_settings(settings: TuneSettings) -> TrainSettings:
    return TrainSettings(
        **settings.of_ray,
        run=settings.out,
        portfolio=settings.portfolio,
        policies=settings.policies,
        device=settings.device,
        tolerance=settings.tolerance,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def _benchmark_settings(settings: TuneSettings) -> BenchmarkSettings:
    return BenchmarkSettings(
        **settings.of_ray,
        runs=(settings.out,),
        learning_curve=False,
        outside=False,
        timing=settings.timing,
        device=settings.device,
        out=settings.out / "ranking",
    )


def _plan(settings: TuneSettings, collections: list[Collection], source: ImageSource) -> str:
    """What is about to be done, and about how long it takes."""
    network, resolution = collections[0].network, source.resolution
    seconds = [estimate(collection) for collection in collections]
    labels = len(collections[0].source.keys)
    steps = f"{len(collections[0].union)} configurations on {labels} label images" + (
        ", twice (with the network's batch-norm statistics and with re-estimated ones)" if len(seconds) > 1 else ""
    )
    steps += (
        f"; then up to {settings.candidates} of them on all {len(source.keys)} images, policies learned from the label "
        "images, and their ranking on the test images"
    )
    if not seconds[0]:
        return f"to do: {steps}; the first is on disk already"
    speed = labels * network.costs.shared(collections[0].union, resolution) / seconds[0]
    evaluated = len(source.keys) * settings.candidates * network.macs(network.default, resolution) / speed
    fitted = _FIT_SECONDS + _LABEL_SECONDS * int((source.splits == "label").sum())
    first, rest = sum(seconds), 2 * evaluated + fitted  # policies observe the candidates once more
    return f"to do: {steps}; about {_duration(first)} and at most {_duration(rest)}, within a factor of two"


def _duration(seconds: float) -> str:
    """In words.

    >>> _duration(12.3), _duration(600), _duration(20000)
    ('20 seconds', '10 minutes', '6 hours')
    """
    if seconds < 90:
        return f"{max(10, 10 * -(-int(seconds) // 10))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{round(seconds / 3600)} hours"


def _head(step: str, what: str) -> None:
    print(f"\n{step}: {what}", file=sys.stderr)


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)
