"""Graphs of a run's portfolio, for everything that its policies ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dynamic.compiled.compiling import compile_network
from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.needs import Needs
from dynamic.compiled.runtimes import Precision
from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.data.sources import ImageSource
from oracle.data.views import View, view_source
from oracle.runs import Run
from selector.compiling.opening import MADE_FOR
from selector.observation.features import LOOKS
from selector.policies import digest_of_policies, load_policies
from selector.policies.asking import joined
from selector.policies.base import Policy

CALIBRATION = 128
"""Label images that the ranges of int8 values are measured on."""


def compile_run(
    run: Run,
    folder: Path,
    precision: Precision = "float32",
    *,
    source: ImageSource | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CompiledNetwork:
    """Compile the portfolio of a run's policies into ``folder``, which is written whole or not at all.

    Args:
        run: with policies.
        folder: ``RUN/compiled/PRECISION``; what is there is replaced.
        precision: see :func:`dynamic.compiled.compiling.compile_network`.
        source: the run's images, of whose label split int8 takes :data:`CALIBRATION`; no other precision needs them.
        progress: called with the number of graphs made and of all.

    Raises:
        UserError: a run without policies, or one that cannot be compiled, with the reason.

    >>> compile_run(Run.open(Path("runs/mine")), Path("runs/mine/compiled/float32"))  # doctest: +SKIP
    """
    refuse_uncompilable(run)
    policies = load_policies(run)
    portfolio = portfolio_of_policies(policies)
    return compile_network(
        run.network.for_inference(statistics=run.statistics),
        folder,
        configurations=portfolio,
        resolution=run.record.resolution,
        needs=needs_of(policies, portfolio, run.network.default),
        looks=LOOKS,
        precision=precision,
        calibration=calibration_images(run, source) if precision == "int8" else None,
        beside={MADE_FOR: {"policies": digest_of_policies(run.policies), "labels": max(p.labels_ for p in policies)}},
        progress=progress,
    )


def refuse_uncompilable(run: Run) -> None:
    """Raise UserError where a run cannot be compiled, whatever its policies are."""
    if (run.view.crop, run.view.resize) != (View().crop, View().resize):
        raise UserError(
            f"{run.folder} cannot be compiled: it crops or resizes images behind their preprocessing (--crop, --resize), "
            "which a server without PyTorch does not do; make a run without"
        )
    if run.settings.dtype != "float32":
        raise UserError(
            f"{run.folder} cannot be compiled: it ran in {run.settings.dtype}, and graphs are made from float32; make it "
            "with --dtype float32, then compile it with --precision"
        )


def portfolio_of_policies(policies: Sequence[Policy]) -> list[Configuration]:
    """That the policies of a run choose among."""
    return [Configuration.parse(name) for name in policies[0].portfolio_]


def needs_of(policies: Sequence[Policy], portfolio: Sequence[Configuration], default: Configuration) -> Needs:
    """What all policies together ask of a compiled network."""
    column = list(portfolio).index(default)
    return joined(policy.asks(column, len(default.stride)) for policy in policies).needs(portfolio, column)


def images_of(run: Run, data_dir: Path | None = None) -> ImageSource:
    """A run's images at the resolution of its graphs, where the source has another; see :meth:`Run.images`."""
    source = run.images(data_dir)
    return view_source(source, View(resize=run.record.resolution / source.resolution))


def calibration_images(run: Run, source: ImageSource | None) -> np.ndarray:
    """(images, C, H, W) float32 of the label split, evenly spaced. Raises UserError where there are none."""
    source = images_of(run) if source is None else source
    rows = np.flatnonzero(source.splits == "label")
    if not len(rows):
        raise UserError(f"{run.folder} has no label images, on which int8 is calibrated")
    batch = source.load(rows[np.unique(np.linspace(0, len(rows) - 1, CALIBRATION).round().astype(int))])
    return np.asarray(batch.images.numpy()[batch.readable])
