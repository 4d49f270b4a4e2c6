"""Every real layout, as a small folder made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynamic
from dynamic import UserError
from oracle.data.sources import FolderSource, open_source
from oracle.evaluation.outcomes import read_outcomes
from oracle.pipeline import run
from oracle.settings import RunSettings
from tests.oracle.conftest import run_command

TENCH, SPRINGER, PARACHUTE = "n01440764", "n02102040", "n03888257"
INDEX = {TENCH: 0, SPRINGER: 217, PARACHUTE: 701}


def fill(root: Path, folders: dict[str, int], suffix: str = ".JPEG") -> None:
    generator = np.random.default_rng(0)
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (40 + number, 60, 3), dtype=np.uint8)
            path = root / folder / f"{folder}_{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def two_configurations(tmp_path: Path) -> str:
    path = tmp_path / "two.json"
    path.write_text('{"stride": [[2], [2], [2], [2, 4]]}')
    return str(path)


@pytest.mark.parametrize(
    ("dataset", "inside"),
    [("imagenet", "val"), ("imagenette", "val"), ("imagenette", "imagenette2-160/val"), ("imagefolder", "")],
)
def test_real_layouts_map_to_the_networks_classes(
    tmp_path: Path, two_configurations: str, dataset: str, inside: str
) -> None:
    data = tmp_path / "data"
    fill(data / inside, {TENCH: 3, SPRINGER: 2, PARACHUTE: 2})
    if inside == "val":
        (data / "train" / TENCH).mkdir(parents=True)
    options = RunSettings(
        model="mobilenet_v2",
        weights="none",
        dataset=dataset,
        data_dir=data,
        space=two_configurations,
        out=tmp_path / "run",  # type: ignore[arg-type]
    )
    summary = run(options)
    assert [summary["spaces"]["two"][split]["images"] for split in ("label", "test")] == [4, 3]
    assert not summary["run"]["stand_in"]
    assert "Small stand-ins" not in (tmp_path / "run" / "report.html").read_text()
    outcomes = read_outcomes(tmp_path / "run")
    assert sorted(outcomes["image"].values) == sorted(
        f"{f}/{f}_{n}.JPEG" for f, c in ((TENCH, 3), (SPRINGER, 2), (PARACHUTE, 2)) for n in range(c)
    )
    for key, label in zip(outcomes["image"].values, outcomes["label"].values, strict=True):
        assert label == INDEX[key.split("/")[0]]


def test_images_are_transformed_as_the_weights_want(tmp_path: Path) -> None:
    fill(tmp_path / "data", {TENCH: 2})
    network = dynamic.load("mobilenet_v2", weights=None)
    source = open_source("imagefolder", network.info, images=None, data_dir=tmp_path / "data")
    batch = source.load(np.arange(2))
    for key, tensor in zip(source.keys, batch.images, strict=True):
        with Image.open(tmp_path / "data" / key) as image:
            assert torch.equal(tensor, network.info.preprocessing(image))
    assert batch.images.shape == (2, 3, 224, 224)


def test_unreadable_images_are_named_counted_and_skipped(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data, {name: 3 for name in "abcdefghij"}, ".png")
    good = (data / "a" / "a_0.png").read_bytes()
    (data / "b" / "b_1.png").write_bytes(good[: len(good) // 2])
    (data / "c" / "c_2.png").write_bytes(b"no image")
    (data / "d" / "d_0.png").write_bytes(b"")
    (data / "d" / "notes.txt").write_text("not an image either, and not expected to be one")
    space = tmp_path / "two.json"
    space.write_text('{"stride": [[1], [2], [2], [2, 4]]}')
    done = run_command(
        "--dataset", "imagefolder", "--data-dir", data, "--space", space, "--out", tmp_path / "run", "--region", 4
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sorted(summary["unreadable"]["images"]) == ["b/b_1.png", "c/c_2.png", "d/d_0.png"]
    assert sum(summary["spaces"]["two"][split]["images"] for split in ("label", "test")) == 27
    assert "3 images could not be read" in done.stdout
    for name in ("b/b_1.png", "c/c_2.png", "d/d_0.png"):
        assert f"skipped {name}: " in done.stderr
        assert name in (tmp_path / "run" / "report.html").read_text()
    assert len(read_outcomes(tmp_path / "run")["image"]) == 27


def test_splits_are_disjoint_and_the_seed_deals_them(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a": 6, "b": 5})
    info = dynamic.load("resnet50-slim", weights=None, classes=2).info
    sources = [FolderSource("imagefolder", tmp_path / "data", info, None, seed, None) for seed in (0, 0, 1)]
    assert len(set(sources[0].keys)) == 11
    assert sources[0].keys.tolist() == sources[1].keys.tolist() != sources[2].keys.tolist()
    few = FolderSource("imagefolder", tmp_path / "data", info, 2, 0, None)
    assert few.keys.tolist() == [*sources[0].keys[:2], *sources[0].keys[6:8]]


def test_class_maps(tmp_path: Path) -> None:
    data, mapping = tmp_path / "data", tmp_path / "map.json"
    fill(data, {"cat": 2, "dog": 2})
    info = dynamic.load("resnet50-slim", weights=None).info
    mapping.write_text('{"cat": 7, "dog": 3}')
    source = FolderSource("imagefolder", data, info, None, 0, mapping)
    assert {key.split("/")[0]: label for key, label in zip(source.keys, source.labels, strict=True)} == {"cat": 7, "dog": 3}
    for content, message in (
        ('{"cat": 7}', "lacks dog"),
        ('{"cat": 7, "dog": 10}', "index of dog is not among the 10"),
        ("{", "cannot read the class map"),
    ):
        mapping.write_text(content)
        with pytest.raises(UserError, match=message):
            FolderSource("imagefolder", data, info, None, 0, mapping)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    info = dynamic.load("mobilenet_v2", weights=None).info
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"holds no class folders: expected .*val/n01440764"):
        open_source("imagenet", info, images=None, data_dir=empty)
    (tmp_path / "hollow" / TENCH).mkdir(parents=True)
    with pytest.raises(UserError, match="holds 0 images in 1 class folders"):
        open_source("imagefolder", info, images=None, data_dir=tmp_path / "hollow")
    fill(tmp_path / "letters", {"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"2 class folders \(a, b, …\), mobilenet_v2 has 1000 classes: pass --class-map"):
        open_source("imagefolder", info, images=None, data_dir=tmp_path / "letters")
    fill(tmp_path / "foreign", {"n99999999": 2})
    with pytest.raises(UserError, match="n99999999 are not among ImageNet's 1000 classes"):
        open_source("imagefolder", info, images=None, data_dir=tmp_path / "foreign")


def test_nested_folders_count_and_other_files_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "data", {"a/deep": 2, "b": 2, ".ipynb_checkpoints": 1})
    (tmp_path / "data" / "b" / "notes.txt").write_text("not an image")
    info = dynamic.load("resnet50-slim", weights=None, classes=2).info
    source = FolderSource("imagefolder", tmp_path / "data", info, None, 0, None)
    assert sorted(source.keys) == ["a/deep/a/deep_0.JPEG", "a/deep/a/deep_1.JPEG", "b/b_0.JPEG", "b/b_1.JPEG"]
    assert "ignored 1 files that are not images, such as " in capsys.readouterr().err


def test_other_pixels_under_the_same_names_are_other_data(tmp_path: Path) -> None:
    info = dynamic.load("resnet50-slim", weights=None, classes=2).info
    fill(tmp_path / "data", {"a": 2, "b": 2})
    before = FolderSource("imagefolder", tmp_path / "data", info, None, 0, None).identity
    Image.new("RGB", (300, 300), "red").save(tmp_path / "data" / "a" / "a_0.JPEG")
    assert FolderSource("imagefolder", tmp_path / "data", info, None, 0, None).identity != before


def test_a_failing_disk_is_no_unreadable_image(tmp_path: Path) -> None:
    info = dynamic.load("resnet50-slim", weights=None, classes=2).info
    fill(tmp_path / "data", {"a": 2, "b": 2})
    source = FolderSource("imagefolder", tmp_path / "data", info, None, 0, None)
    (tmp_path / "data" / "a" / "a_0.JPEG").unlink()
    with pytest.raises(FileNotFoundError):
        source.load(np.arange(4))


def test_options_of_folders_do_not_apply_to_scenes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not apply to fashion-scenes"):
        open_source("fashion-scenes", dynamic.load("resnet50-slim").info, images=2, data_dir=tmp_path)
