"""The one command: interrupted anywhere it goes on, and what is wrong is one line before anything long begins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamic import UserError
from oracle.runs import Run
from selector.policies.base import Policy
from selector.tuning import tuning
from selector.tuning.settings import TuneSettings
from selector.tuning.tuning import tune
from selector.tuning.verdict import summary_of
from tests.oracle.conftest import all_bytes, environment
from tests.own_network import CLASSES, MEAN, SIDE, STD, photographs, train_network, write_network, write_photographs


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network's file, its weights and photographs."""
    folder = tmp_path_factory.mktemp("brought")
    write_network(folder)
    train_network(folder, photographs(200, 100), epochs=3)
    write_photographs(folder / "photos", 24)
    return folder


def settings_of(brought: Path, out: Path, **changes: Any) -> TuneSettings:
    made = TuneSettings(
        model=f"{brought / 'my_net.py'}:build",
        weights=str(brought / "best.pth"),
        dynamic_layers="first.conv,second.conv",
        resolution=SIDE,
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        data_dir=brought / "photos",
        search_images=20,
        candidates=6,
        portfolio=4,
        recalibrate=20,
        policies="cascade",
        device="cpu",
        out=out,
    )
    return replace(made, **changes)


DEADLY = """
import os, signal, sys, pathlib, functools
from selector.tuning import tuning, searching
from oracle.outcomes import OutcomesStore
from selector.policies.base import Policy
from tests.selector.tuning.test_tuning import settings_of

def kill_at(owner, name, call, after):
    real, count = getattr(owner, name), [0]
    @functools.wraps(real)
    def deadly(*arguments, **options):
        count[0] += 1
        if count[0] == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if count[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, deadly)

where, call, after = sys.argv[3:]
owner, name = {"collect": (searching, "collect"), "portfolio": (tuning, "write_portfolio"), "save": (Policy, "save"),
    "store": (OutcomesStore, "write"), "rank": (tuning, "benchmark")}[where]
kill_at(owner, name, int(call), after == "after")
tuning.tune(settings_of(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
"""

DEATHS = [
    ("collect", 1, "after"),  # the space is evaluated once, not yet with recalibrated statistics
    ("portfolio", 1, "before"),
    ("store", 2, "after"),  # in the middle of the candidates
    ("save", 3, "after"),  # in the middle of the policies
    ("rank", 1, "after"),  # ranked, but not noted
]


@pytest.mark.nightly
@pytest.mark.slow
def test_killed_at_any_step_it_goes_on_and_ends_the_same_on_ray_too(brought: Path, tmp_path: Path) -> None:
    whole = tune(settings_of(brought, tmp_path / "whole" / "run"))
    out = tmp_path / "killed" / "run"
    for death in DEATHS:
        arguments = [str(brought), str(out), *map(str, death)]
        killed = subprocess.run(
            [sys.executable, "-c", DEADLY, *arguments], env=environment(), capture_output=True, text=True, timeout=900
        )
        assert killed.returncode == -signal.SIGKILL, (death, killed.stderr)
    again = tune(settings_of(brought, out))
    on_ray = tune(settings_of(brought, tmp_path / "ray" / "run", ray="local", ray_workers=1))
    assert summary_of(again) == summary_of(on_ray)
    assert summary_of(again) == summary_of(whole)
    first, second = (all_bytes(folder / "run") for folder in (tmp_path / "whole", tmp_path / "killed"))
    same = ("outcomes.zarr", "policies", "observations", "portfolio.json", "labels.parquet", "statistics.safetensors")
    assert {name: content for name, content in first.items() if name.startswith(same)} == {
        name: content for name, content in second.items() if name.startswith(same)
    }
    assert {name for name in first if name.startswith("sets")} == {name for name in second if name.startswith("sets")}


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_what_changed_is_told(
    brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(brought, tmp_path / "run", recalibrate=0)
    done = tune(settings)
    assert not Run(settings.out).statistics_file.exists()
    search = Run.open(Run(settings.out).set("search").folder).outcomes()
    assert set(search["split"].values.tolist()) == {"label"}  # nothing is decided on test images
    before = all_bytes(settings.out)
    for step in ("train", "benchmark"):
        monkeypatch.setattr(tuning, step, None)
    assert tune(settings) == done
    assert all_bytes(settings.out) == before
    monkeypatch.undo()
    capsys.readouterr()
    changed = tune(replace(settings, portfolio=3, policies="neighbours"))
    assert "--portfolio was 4, is now 3\n--policies was cascade, is now neighbours\n" in capsys.readouterr().err
    assert {row["policy"] for row in changed["policies"] if row["learned"]} == {"neighbours"}
    assert len(changed["run"]["configurations"]) == 3
    with pytest.raises(UserError, match="was begun with --space stride, now it is dilation: choose another --out"):
        tune(replace(settings, space="dilation"))
    torch.save({key: value + 1 for key, value in torch.load(brought / "best.pth").items()}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"holds another run \(weights is .* there, .* here\)"):
        tune(replace(settings, weights=str(tmp_path / "other.pth")))
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(replace(settings, policies="cascade,correctness"))
    strict = tune(replace(settings, tolerance=0.02, confidence=0.9))
    assert "--tolerance was 0.01, is now 0.02\n--confidence was 0.95, is now 0.9\n" in capsys.readouterr().err
    assert strict["run"]["terms"] == {"tolerance": 0.02, "confidence": 0.9}
    assert {row["policy"] for row in tune(settings)["policies"] if row["learned"]} == {"cascade"}
    (settings.out / "tune.json").unlink()
    with pytest.raises(UserError, match=r"holds a run that selector\.tune did not make: choose another --out"):
        tune(settings)


def interrupted(policy: Policy, folder: Path) -> None:
    folder.mkdir(parents=True)
    raise KeyboardInterrupt


@pytest.mark.slow
def test_what_the_search_saw_and_the_ranking_ranked_is_what_is_there(
    brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.json"
    space.write_text('{"stride": [[1, 2], [2, 3]]}')
    settings = settings_of(brought, tmp_path / "run", recalibrate=0, images=30, space=str(space))
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "run_oracle", None)
        with pytest.raises(TypeError):
            tune(settings)  # as if killed behind the search
    torch.save({key: value * 2 for key, value in torch.load(brought / "best.pth").items()}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds another run"):
        tune(replace(settings, weights=str(tmp_path / "other.pth")))
    space.write_text('{"stride": [[2, 4], [2, 4]]}')
    with pytest.raises(UserError, match="holds another run"):
        tune(settings)
    space.write_text('{"stride": [[1, 2], [2, 3]]}')
    assert tune(settings)["run"]["test_images"] == 30
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "search", None)  # more images do not ask for another search
        assert tune(replace(settings, images=35))["run"]["test_images"] == 35


@pytest.mark.slow
def test_distilled_first(brought: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(brought / "photos", tmp_path / "split" / "val")
    write_photographs(tmp_path / "split" / "train", 24, start=300)
    settings = settings_of(brought, tmp_path / "run", data_dir=tmp_path / "split", distil=1, recalibrate=0)
    done = tune(settings)
    assert "distil: 1 epochs on 96 training images" in capsys.readouterr().err
    assert 0 <= done["before_distillation"] <= 1
    run = Run.open(settings.out)
    assert run.record.network.weights == str(settings.out / "distilled" / "weights.safetensors")
    assert run.record.network.digest != Run.open(run.set("before").folder).record.network.digest
    before = all_bytes(settings.out)
    assert tune(settings) == done
    assert all_bytes(settings.out) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": "nowhere"}, "no folder .*nowhere: --data-dir must be the folder of the images"),
        ({"data_dir": "empty"}, "empty holds no class folders: expected .*empty/CLASS/….jpg"),
        ({"data_dir": "ten"}, r"10 images are too few: \d of them are label images, at least 8 are needed"),
        ({"data_dir": "one"}, r"(the data has 1 class folders|all 24 images are of one class \(bag\))"),
        ({"weights": "none.pth"}, "no checkpoint .*none.pth"),
        ({"weights": "resnet.pth"}, "resnet.pth"),
        ({"model": "none.py:build"}, "none.py"),
        ({"model": "my_net.py:make"}, "my_net.py .*make"),
        ({"dynamic_layers": "third.conv,second.conv"}, "third.conv"),
        ({"distil": 1}, "expected .*train/CLASS"),
        ({"space": "strides"}, "strides"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_evaluated(
    changes: dict[str, Any], message: str, brought: Path, tmp_path: Path
) -> None:
    for name, count in (("empty", 0), ("ten", 3), ("one", 24)):
        if changes.get("data_dir") == name:
            (tmp_path / name).mkdir()
            write_photographs(tmp_path / "made", count)
            for label in CLASSES if name == "ten" else CLASSES[:1]:
                if count:
                    shutil.move(tmp_path / "made" / label, tmp_path / name / label)
    if changes.get("data_dir") == "ten":
        for path in sorted((tmp_path / "ten").rglob("*.*"))[10:]:
            path.unlink()
    if changes.get("weights") == "resnet.pth":
        torch.save(torch.nn.Conv2d(3, 7, 5).state_dict(), tmp_path / "resnet.pth")
    if changes.get("model") == "my_net.py:make":
        shutil.copy(brought / "my_net.py", tmp_path)
    if "/" not in str(changes.get("data_dir", "/")):
        changes = {"data_dir": tmp_path / changes["data_dir"]}
    for name in ("weights", "model"):
        if name in changes:
            changes = {name: str(tmp_path / changes[name])}
    with pytest.raises(UserError, match=message) as refused:
        tune(settings_of(brought, tmp_path / "run", **changes))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "sets").exists()
    assert not (tmp_path / "run" / "outcomes.zarr").exists()


def test_options_that_cannot_be() -> None:
    with pytest.raises(UserError, match="--candidates must be from 2 to 32, not 1"):
        TuneSettings(candidates=1)
    with pytest.raises(UserError, match="--dataset imagenet needs --data-dir"):
        TuneSettings(dataset="imagenet")
    with pytest.raises(UserError, match="--distil must not be negative"):
        TuneSettings(distil=-1)
    with pytest.raises(UserError, match=r"--tolerance is a share of images, from 0 to less than 1 \(0.01: a point\), not 1"):
        TuneSettings(tolerance=1.0)
    with pytest.raises(UserError, match=r"--confidence is a share, from 0\.5 to less than 1"):
        TuneSettings(confidence=95)
    assert TuneSettings().images_of == "fashion-scenes"
    assert json.loads(json.dumps(TuneSettings().to_json()))["out"] == "runs/tuned"
    assert os.sep not in TuneSettings().model
