"""On a network whose first dynamic layer reads the picture, policies look at what the second reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamic.models import DYNAMIC_LAYERS
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.compiling.flow import compile_for
from selector.compiling.settings import CompileSettings
from selector.learning.training import TrainSettings, train
from selector.observation.observations import Observations
from selector.policies import load_policies, make
from selector.policies.boosting import Correctness
from selector.policies.empty_stem import without_empty_stem

LAYERS = DYNAMIC_LAYERS["resnet50"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three strides of the stem, with policies."""
    folder = tmp_path_factory.mktemp("seeing")
    space = folder / "stem.json"
    space.write_text(json.dumps([f"s{stem}-1-2-2-2_d1-1-1-1-1_k7-3-3-3-3" for stem in (2, 3, 4)]))
    layers = ",".join(("conv1", *LAYERS))
    run(RunSettings(space=str(space), dynamic_layers=layers, images=160, recalibrate=32, out=folder / "run"))
    train(TrainSettings(run=folder / "run", policies="ranker,blend,second_look,stacking,cascade", device="cpu"))
    return folder / "run"


def test_policies_look_behind_the_stem(folder: Path) -> None:
    policies = {policy.name: policy for policy in load_policies(Run.open(folder))}
    assert policies["ranker"].parameters()["groups"] == ("prefix",)
    assert policies["stacking"].parameters()["groups"] == ("prefix",)
    assert policies["second_look"].parameters()["groups"] == ("prefix", "answer:default")
    asked = policies["blend"].asks(0, 5)
    assert set(asked.groups) == {"map", "prefix"}
    assert policies["cascade"].parameters() == next(p for p in make("cascade") if p.name == "cascade").parameters()


@pytest.mark.slow
def test_compiled_they_decide_the_same(folder: Path) -> None:
    _, report, _ = compile_for(CompileSettings(run=folder))
    assert report["equality"]["holds"]
    assert report["live"]["holds"]


def test_a_stem_that_is_more_than_the_picture_is_looked_at(noise: tuple[Observations, Observations]) -> None:
    label, _ = noise
    assert label.costs.stem @ label.costs.macs > 0
    policy = Correctness()
    assert without_empty_stem(policy, label) is policy
