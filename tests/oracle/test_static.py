"""A network run statically is a run as any other; of one with many configurations half the labels choose a portfolio."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import numpy as np

from oracle.outcomes import read_outcomes
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.fitting import halves
from selector.learning.observing import observed_configurations


def test_a_network_run_statically_is_a_run(tmp_path: Path) -> None:
    summary = run(RunSettings(space="default", images=4, out=tmp_path / "alone"))
    (space,) = summary["spaces"].values()
    numbers = space["test"]
    assert numbers["static"] == numbers["best"] == numbers["worst"]
    assert (tmp_path / "alone" / "report.html").exists()


def test_a_portfolio_is_chosen_without_the_images_that_promise_something_of_it(tmp_path: Path) -> None:
    space = tmp_path / "space.json"
    space.write_text(json.dumps({"stride": [[1], [2], [2], [2, 1, 0.5]], "kernel_size": [[3], [3], [3], [3, 5]]}))
    run(RunSettings(space=str(space), images=8, out=tmp_path / "run"))
    finished, outcomes = Run.open(tmp_path / "run"), read_outcomes(tmp_path / "run")
    _, spared = halves(outcomes["image"].values[outcomes["split"].values == "label"])
    turned = outcomes.copy(deep=True)
    others = np.array([str(image) in spared for image in outcomes["image"].values])
    turned["predicted"].values[others] = (turned["label"].values[others, None] + np.arange(6)) % 10  # one is always right
    with mock.patch("selector.learning.observing.LARGEST", 2):
        assert observed_configurations(finished, turned, 2) == observed_configurations(finished, outcomes, 2)
    assert 0 < others.sum() < 8
    assert (turned["predicted"] != outcomes["predicted"]).any()
