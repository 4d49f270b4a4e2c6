"""The runs that the package ships: whole, and with policies that learned from what the code really makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oracle.runs import Run
from oracle.searched import chosen_on
from selector.observation.costs import Costs
from selector.observation.eager import live_images
from selector.policies import digest_of_policies, load_policies
from selector.policies.head import Head
from selector.scoring.results import read_results
from selector.shipped import SHIPPED


@pytest.mark.parametrize("name", list(SHIPPED))
def test_every_file_is_what_it_was(name: str) -> None:
    run = Run.open(SHIPPED[name])
    run.verify_all()
    assert read_results(run)["policies_digest"] == digest_of_policies(run.policies)
    assert not list(Path(run.folder).rglob("settings.json"))
    for policy in load_policies(run):
        assert policy.chosen_on_ == chosen_on(run)  # so that whoever fits one anew promises nothing on them either


@pytest.mark.parametrize("name", list(SHIPPED))
def test_the_map_that_policies_learned_from_is_the_one_the_network_makes(name: str) -> None:
    """Shipped policies had been fitted on maps of an earlier state of the code, whose channels lay a deviation away."""
    run = Run.open(SHIPPED[name])
    source = run.images()
    images = source.load(np.flatnonzero(source.splits == "label")[:160]).images
    costs = Costs(run.network, run.configurations, source.resolution)
    made = live_images(run.fast_network(), images, run.configurations, costs).features("map").mean(axis=(0, 2, 3))
    head = next(policy for policy in load_policies(run) if isinstance(policy, Head))
    assert (np.abs(made - head.map_mean_) / head.map_scale_).max() < 0.25
