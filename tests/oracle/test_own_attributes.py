"""A run over an attribute of one's own keeps its file, and goes on with no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dynamic
from dynamic import UserError
from dynamic.attributes import registry
from dynamic.scenes import FashionScenes
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings, load_for
from oracle.training.fine_tuning import drawn_from
from oracle.training.settings import RofSettings
from tests.pages import rotation


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_all", {})
    monkeypatch.setattr(registry, "_sources", {})


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    folder = tmp_path_factory.mktemp("turned")
    (folder / "turns.json").write_text(json.dumps({"rotation": [[0], [0], [0], [0, 1, 2]]}))
    settings = RunSettings(
        attributes=str(rotation(folder)), space=str(folder / "turns.json"), images=4, region=4, out=folder / "run"
    )
    with pytest.MonkeyPatch.context() as patched:
        forget(patched)
        run(settings)
    return settings


def test_outcomes_equal_those_of_turned_kernels(turned: RunSettings) -> None:
    opened = Run.open(turned.out)
    outcomes = opened.outcomes()
    assert outcomes["rotation_D"].values.tolist() == [0, 1, 2]
    assert [c.options("rotation")[3] for c in opened.configurations] == [0, 1, 2]
    scenes, original = FashionScenes("test"), dynamic.load("resnet50-slim").original
    images, labels = scenes.render(range(4)), torch.from_numpy(scenes.labels[:4])
    built = original.layer4[0].conv2.weight.detach().clone()
    part = outcomes.isel(image=outcomes["split"].values == "test")
    for turns in range(3):
        with torch.no_grad():
            original.layer4[0].conv2.weight.copy_(built.rot90(turns, (2, 3)))
            p_true = original(images).softmax(1)[torch.arange(4), labels]
        torch.testing.assert_close(torch.from_numpy(part["p_true"].values[:, turns]), p_true, atol=1e-4, rtol=1e-4)


def test_the_run_has_the_file_and_needs_no_other(turned: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = turned.out / "attributes" / "rotation.py"
    assert kept.read_text() == Path(turned.attributes).read_text()
    assert "rotation" not in registry.attributes()
    Run.open(turned.out)
    assert "rotation" in registry.attributes()
    forget(monkeypatch)
    finished = run(replace(turned, attributes=str(kept)))  # started again from its own copy
    assert finished["spaces"]["turns"]["configurations"] == 3


def test_a_changed_file_is_refused(turned: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = rotation(tmp_path, ("rot90(int(turns)", "rot90(-int(turns)"))
    with pytest.raises(UserError, match=r"holds another run \(attributes is rotation \w+ there, rotation \w+ here\)"):
        run(replace(turned, attributes=str(changed)))
    with pytest.raises(UserError, match="cannot be registered beside 'rotation'"):
        Run.open(turned.out)
    forget(monkeypatch)
    copy = tmp_path / "copy"
    shutil.copytree(turned.out, copy)
    (copy / "attributes" / "rotation.py").write_text(changed.read_text())
    with pytest.raises(UserError, match=r"rotation.py is damaged"):
        Run.open(copy)
    assert "rotation" not in registry.attributes()


def test_fine_tuning_draws_from_it(tmp_path: Path) -> None:
    settings = RofSettings(attributes=str(rotation(tmp_path)), space="rotation", weights="none")
    drawn = drawn_from(settings, load_for(settings, settings.dataset, settings.seed))
    assert len(drawn) == 256
    assert len({c.options("rotation") for c in drawn}) == 256
