"""A run folder: moved, unpacked, read-only, damaged, an earlier version's, somebody else's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dynamic
from dynamic import UserError
from dynamic.integrity import read_record, write_record
from oracle.outcomes import read_outcomes
from oracle.pipeline import run
from oracle.run_record import OWN, Digests
from oracle.runs import Run
from oracle.settings import RunSettings
from selector.learning.training import TrainSettings, train
from selector.policies import load_policies
from tests.image_folders import fill
from tests.oracle.conftest import all_bytes, run_here
from tests.run_folders import CLASSES, moved_folder_run, write_space


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moved_folder_run(tmp_path_factory.mktemp("folder-run"))


def test_a_moved_run_needs_neither_images_nor_weights(folder_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    opened = Run.open(folder_run)
    assert opened.record.class_names == CLASSES
    assert opened.network.digest == opened.digests.weights
    assert opened.network.info.weights.endswith("mine.safetensors")
    image = opened.record.preprocessing(Image.new("RGB", (200, 100), "red"))[None]
    logits = opened.fast_network()(image, opened.network.default)
    assert logits.shape == (1, 3)
    assert [policy.name for policy in load_policies(opened)][-1] == "cascade"
    with pytest.raises(UserError, match=r"no folder .*photos: --data-dir must be the folder of the images"):
        opened.images()


def test_a_read_only_run_is_not_written_to(folder_run: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").rglob("*"))}
    opened = Run.open(tmp_path / "run")
    opened.outcomes(), opened.fast_network(), load_policies(opened)
    assert {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").rglob("*"))} == before


def everything(folder: Path) -> str:
    """All that a service or a training takes from a run, as text: what damage would change."""
    opened = Run.open(folder)
    opened.verify_all()
    policies = [(p.name, p.portfolio_, p.points_, sorted(p.fitted_on_), str(p._state())) for p in load_policies(opened)]
    image = torch.linspace(-1, 1, 3 * 96 * 96).reshape(1, 3, 96, 96)
    answers = [opened.fast_network()(image, c).tolist() for c in opened.configurations]
    outcomes = opened.outcomes()
    return str((opened.record, answers, outcomes.predicted.values.tolist(), outcomes.p_true.values.tolist(), policies))


def deleted(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def another_kind(path: Path) -> None:
    path.write_text("[1, 2, 3]")


@pytest.mark.slow
def test_every_damage_is_refused_in_one_line_or_changes_nothing(folder_run: Path, tmp_path: Path) -> None:
    """Each file of a run, damaged in five ways: some two hundred and fifty."""
    copy = tmp_path / "run"
    shutil.copytree(folder_run, copy)
    good, refused = everything(copy), 0
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        if {"observations", "figures"} & set(path.parts) or path.suffix == ".html":
            continue  # made again, or for people
        content = path.read_bytes()
        for damage in (deleted, emptied, truncated, flipped, another_kind):
            damage(path)
            try:
                found = everything(copy)
            except UserError as error:
                found, refused = str(error), refused + 1
                told = "\n" not in found
            else:
                told = found == good
            path.write_bytes(content)
            assert told, (path, damage, found[:300])
    assert refused > 200


@pytest.mark.parametrize("damage", [flipped, another_kind])
@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "statistics.safetensors",
        "weights.safetensors",
        "outcomes.zarr/p_true/c/0/0",
        "policies/cascade/policy.json",
        "policies/cascade/state.safetensors",
    ],
)
def test_what_decides_answers_is_checked(
    folder_run: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(folder_run, tmp_path / "run")
    damage(tmp_path / "run" / name)
    with pytest.raises(UserError, match=rf"{name} (is damaged|cannot be read)"):
        everything(tmp_path / "run")


@pytest.mark.parametrize("name", ["run.json", "statistics.safetensors", "weights.safetensors", "outcomes.zarr/p_true/c/0/0"])
def test_what_is_missing_is_named(folder_run: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder_run, tmp_path / "run")
    deleted(tmp_path / "run" / name)
    with pytest.raises(UserError, match=Path(name).name if "/" not in name else f"{name} is missing"):
        everything(tmp_path / "run")


def test_policies_of_another_network_are_refused(folder_run: Path, tmp_path: Path) -> None:
    run(RunSettings(space=str(write_space(tmp_path)), images=8, recalibrate=8, out=tmp_path / "other"))
    shutil.copytree(folder_run / "policies", tmp_path / "other" / "policies")
    with pytest.raises(
        UserError,
        match=r"default belongs to another network \(weights \w+ there, \w+ here; statistics \w+ there, \w+ here\)",
    ):
        load_policies(Run.open(tmp_path / "other"))


def test_digests_name_what_differs() -> None:
    mine, theirs = Digests(weights="a", statistics=OWN), Digests(weights="a", statistics="c")
    mine.require(mine, Path("x"), "fit it again")
    with pytest.raises(UserError, match=r"^x belongs to another network \(statistics c there, own here\): fit it again$"):
        mine.require(theirs, Path("x"), "fit it again")


def test_an_unfinished_or_earlier_run_is_told_apart(folder_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run in .*nowhere \(no run.json\): make one with python -m oracle.run --out"):
        Run.open(tmp_path / "nowhere")
    shutil.copytree(folder_run, tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    opened.write_record(replace(opened.record, files={}))
    with pytest.raises(UserError, match="is not finished: start its command again"):
        Run.open(tmp_path / "run")
    opened.record_file.unlink()
    (tmp_path / "run" / "settings.json").write_text("{}")
    with pytest.raises(UserError, match=r"has outcomes but no run\.json"):
        Run.open(tmp_path / "run")
    write_record(opened.record_file, {"settings": {}})
    with pytest.raises(UserError, match=r"has wrong entries"):
        Run.open(tmp_path / "run")


@pytest.mark.slow
def test_an_earlier_versions_run_is_taken_over_without_evaluating(tmp_path: Path) -> None:
    options = ("--space", str(write_space(tmp_path)), "--images", 6, "--out", tmp_path / "run")
    assert run_here(*options).returncode == 0
    whole = all_bytes(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "settings.json").write_text("{}")
    again = run_here(*options)
    assert again.returncode == 0, again.stderr
    assert "image/s" not in again.stderr
    assert all_bytes(tmp_path / "run") == whole


@pytest.mark.slow
def test_a_finished_run_that_was_damaged_is_not_laundered(tmp_path: Path) -> None:
    settings = RunSettings(space=str(write_space(tmp_path)), images=6, out=tmp_path / "run")
    run(settings)
    chunk = next((tmp_path / "run" / "outcomes.zarr" / "p_true" / "c").rglob("0/0"))
    flipped(chunk)
    with pytest.raises(UserError, match=r"p_true/c/0/0 is damaged: it differs from its digest in run.json"):
        run(settings)


def test_a_garbled_chunk_of_an_unlisted_store_is_one_line(tmp_path: Path) -> None:
    run(RunSettings(space=str(write_space(tmp_path)), images=6, out=tmp_path))
    another_kind(tmp_path / "outcomes.zarr" / "predicted" / "c" / "0" / "0")
    with pytest.raises(UserError, match=r"outcomes.zarr is damaged"):
        read_outcomes(tmp_path)


@pytest.mark.slow
def test_a_network_given_in_python_is_given_again(tmp_path: Path) -> None:
    space = tmp_path / "own.json"
    space.write_text('{"dilation": [[1, 2]]}')

    def module() -> torch.nn.Module:
        torch.manual_seed(3)
        head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10)]
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), *head)

    network = dynamic.load(module(), dynamic_layers=["0"])
    run(RunSettings(space=str(space), images=16, out=tmp_path / "run"), network)
    with pytest.raises(UserError, match=r"Sequential of .* was given in Python, and no command can make it"):
        _ = Run.open(tmp_path / "run").network
    assert train(TrainSettings(run=tmp_path / "run", policies="cascade"), dynamic.load(module(), dynamic_layers=["0"]))
    torch.manual_seed(4)
    other = dynamic.load(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), *list(module())[1:]), dynamic_layers=["0"])
    with pytest.raises(UserError, match="holds another run \\(weights is"):
        Run.open(tmp_path / "run").adopt(other)


def test_weights_are_copied_as_they_are(folder_run: Path) -> None:
    kept = load_file(Run(folder_run).weights_file)
    again = Run.open(folder_run).network.original.state_dict()
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert read_record(Run(folder_run).record_file)["network"]["registered"] is None


@pytest.mark.slow
def test_a_named_network_may_be_given_in_python_and_a_module_in_any_layout(tmp_path: Path) -> None:
    """Sets of a study share the main run's network, and must open like it; channels-last kernels can be copied."""
    settings = RunSettings(space=str(write_space(tmp_path)), images=4, out=tmp_path / "named")
    run(settings, dynamic.load("resnet50-slim"))
    assert Run.open(tmp_path / "named").network.info.registered == "default"
    own = dynamic.load("resnet50-slim").original.to(memory_format=torch.channels_last)
    run(replace(settings, out=tmp_path / "own"), dynamic.load(own, dynamic_layers=dynamic.models.DYNAMIC_LAYERS["resnet50"]))
    assert Run.open(tmp_path / "own").record.network.own


@pytest.mark.slow
def test_damage_before_the_seal_is_not_vouched_for(tmp_path: Path) -> None:
    settings = RunSettings(space=str(write_space(tmp_path)), images=4, region=2, out=tmp_path / "run")
    run(settings)
    opened = Run.open(tmp_path / "run")
    whole = all_bytes(tmp_path / "run")
    opened.write_record(replace(opened.record, files={}))
    names = tmp_path / "run" / "outcomes.zarr" / "image" / "c" / "0"
    content = names.read_bytes()
    truncated(names)
    with pytest.raises(UserError, match="is damaged"):
        run(settings)
    names.write_bytes(content)
    run(settings)
    assert all_bytes(tmp_path / "run") == whole
    truncated(tmp_path / "run" / "outcomes.zarr" / "status" / "c" / "0")
    with pytest.raises(UserError, match="status is damaged"):
        run(settings)


@pytest.mark.slow
def test_a_run_that_has_begun_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    settings = RunSettings(space=str(write_space(tmp_path)), images=8, region=4, recalibrate=16, out=tmp_path / "run")
    run(settings)
    other = replace(settings, recalibrate=20, out=tmp_path / "other")
    run(other)
    next((tmp_path / "run" / "outcomes.zarr" / "status" / "c").iterdir()).unlink()
    shutil.copy(Run(other.out).statistics_file, Run(settings.out).statistics_file)
    with pytest.raises(UserError, match=r"began with other statistics \(\w+ there, \w+ here\)"):
        run(settings)


def test_a_policies_folder_must_be_whole(folder_run: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_run, tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    shutil.move(opened.policies / "cascade", opened.policies / "mine")
    with pytest.raises(UserError, match=r"mine holds the policy cascade: call the folder by that name"):
        load_policies(opened)
    shutil.rmtree(opened.policies / "mine")
    shutil.rmtree(opened.policies / "single_best")
    with pytest.raises(UserError, match=r"policies lacks single_best: run python -m selector.train .* to its end"):
        load_policies(opened)


def test_a_class_map_moves_with_the_run(tmp_path: Path) -> None:
    keys = fill(tmp_path / "photos", {"a": 8, "b": 8})
    assert len(keys) == 16
    mapping = tmp_path / "map.json"
    mapping.write_text(json.dumps({"a": 7, "b": 2}))
    settings = RunSettings(
        dataset="imagefolder",
        data_dir=tmp_path / "photos",
        class_map=mapping,
        space=str(write_space(tmp_path)),
        out=tmp_path / "run",
    )
    run(settings)
    mapping.unlink()
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    source = Run.open(tmp_path / "run").images(tmp_path / "moved")
    assert set(source.labels) == {7, 2}
    photograph = next((tmp_path / "moved" / "a").iterdir())
    Image.open(photograph).rotate(180).save(photograph.with_name("more.JPEG"))  # a copy would not count
    with pytest.raises(UserError, match="--data-dir must be the folder of the run's images"):
        Run.open(tmp_path / "run").images(tmp_path / "moved")
