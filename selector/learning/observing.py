"""Which configurations of a run are observed, and on which of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from oracle.data.sources import SPLITS, ImageSource
from oracle.ray_settings import RaySettings
from oracle.runs import Run
from selector.learning.fitting import halves
from selector.learning.portfolios import LARGEST, portfolio_of
from selector.observation.observations import Observations
from selector.observation.observe import observe


def observed_configurations(run: Run, outcomes: xr.Dataset, size: int) -> list[Configuration]:
    """The run's configurations if they are few, else a portfolio of them, chosen on half of the label images."""
    if len(run.configurations) <= LARGEST:
        return list(run.configurations)
    return portfolio_of(_to_choose_on(outcomes), run.network.default, size)


def _to_choose_on(outcomes: xr.Dataset) -> xr.Dataset:
    """Without the label images on which is estimated what policies promise; see :func:`selector.learning.fitting.halves`."""
    images = outcomes["image"].values
    _, promised = halves(images[outcomes["split"].values == "label"])
    return outcomes.isel(image=np.array([str(image) not in promised for image in images]))


def observe_run(
    run: Run,
    source: ImageSource,
    outcomes: xr.Dataset,
    portfolio: Sequence[Configuration],
    out: Path,
    *,
    splits: tuple[str, ...] = SPLITS,
    device: str = "cpu",
    data_dir: Path | None = None,
    ray: RaySettings | None = None,
) -> Observations:
    """:func:`selector.observation.observe.observe` of a run's images; what the run could not read stays out.

    Args:
        run: whose network is observed.
        source: its images.
        outcomes: of the run.
        portfolio: among the run's configurations.
        out: folder of the observations.
        splits: only these.
        device: where the network runs.
        data_dir: where the images are, if they were moved.
        ray: whether on a cluster: then within :func:`oracle.evaluation.ray_workers.cluster`.

    Raises:
        UserError: a configuration that the run did not run.
    """
    lacking = sorted({c.id for c in portfolio} - {c.id for c in run.configurations})
    if lacking:
        raise UserError(f"{run.folder} did not run {lacking[0]}: run oracle.run with --space for this portfolio")
    settings = replace(run.settings, device=device, **(ray.of_ray if ray is not None else {}))
    if data_dir is not None:
        settings = replace(settings, data_dir=data_dir)
    observed = observe(run, source, portfolio, out, splits=splits, settings=settings)
    return observed.rows(np.isin(observed.keys, outcomes["image"].values))
