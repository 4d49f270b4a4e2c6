"""Every real layout, as a small folder made here."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynamic
from dynamic import UserError
from dynamic.models import ModelInfo
from oracle.data.folders import FolderSource
from oracle.data.sources import open_source
from oracle.data.splits import split_of
from oracle.outcomes import compare_identity, read_outcomes
from oracle.pipeline import run
from oracle.runs import Run
from oracle.settings import RunSettings
from tests.image_folders import fill
from tests.oracle.conftest import run_here

TENCH, SPRINGER, PARACHUTE = "n01440764", "n02102040", "n03888257"
INDEX = {TENCH: 0, SPRINGER: 217, PARACHUTE: 701}


@pytest.fixture
def two_configurations(tmp_path: Path) -> str:
    path = tmp_path / "two.json"
    path.write_text('{"stride": [[2], [2], [2], [2, 4]]}')
    return str(path)


@pytest.fixture(scope="module")
def two_classes() -> ModelInfo:
    return dynamic.load("mobilenet_v2-slim", weights=None, classes=2).info


@pytest.mark.parametrize(
    ("dataset", "inside"),
    [("imagenet", "val"), ("imagenette", "val"), ("imagenette", "imagenette2-160/val"), ("imagefolder", "")],
)
def test_real_layouts_map_to_the_networks_classes(
    tmp_path: Path, two_configurations: str, dataset: str, inside: str
) -> None:
    data = tmp_path / "data"
    keys = fill(data / inside, {TENCH: 3, SPRINGER: 2, PARACHUTE: 2})
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
    assert sorted(outcomes["image"].values) == sorted(keys)
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


@pytest.mark.slow
def test_unreadable_images_are_named_counted_and_skipped(tmp_path: Path) -> None:
    data = tmp_path / "data"
    keys = fill(data, {name: 3 for name in "abcdefghij"}, ".png")
    half, none, empty = keys[4], keys[8], keys[15]
    (data / half).write_bytes((data / half).read_bytes()[:1000])
    (data / none).write_bytes(b"no image")
    (data / empty).write_bytes(b"")
    (data / "d" / "notes.txt").write_text("not an image either, and not expected to be one")
    space = tmp_path / "two.json"
    space.write_text('{"stride": [[1], [2], [2], [2, 4]]}')
    done = run_here(
        "--dataset", "imagefolder", "--data-dir", data, "--space", space, "--out", tmp_path / "run", "--region", 4
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sorted(summary["unreadable"]["images"]) == sorted([half, none, empty])
    assert sum(summary["spaces"]["two"][split]["images"] for split in ("label", "test")) == 27
    assert "3 images could not be read" in done.stdout
    for name in (half, none, empty):
        assert f"skipped {name}: " in done.stderr
        assert name in (tmp_path / "run" / "report.html").read_text()
    assert len(read_outcomes(tmp_path / "run")["image"]) == 27


def test_the_seed_orders_the_images_and_never_moves_one_to_the_other_split(tmp_path: Path, two_classes: ModelInfo) -> None:
    keys = fill(tmp_path / "data", {"a": 6, "b": 5})
    sources = [FolderSource("imagefolder", tmp_path / "data", two_classes, None, seed, None) for seed in (0, 0, 1)]
    assert sources[0].keys.tolist() == sources[1].keys.tolist() != sources[2].keys.tolist()
    for source in sources:
        assert source.splits.tolist() == ["label"] * 6 + ["test"] * 5 == [split_of(key) for key in source.keys]
        assert sorted(source.keys) == sorted(keys)
    few = FolderSource("imagefolder", tmp_path / "data", two_classes, 2, 0, None)
    assert few.keys.tolist() == [*sources[0].keys[:2], *sources[0].keys[6:8]]


def test_a_split_without_images_is_a_mistake(tmp_path: Path, two_classes: ModelInfo) -> None:
    keys = fill(tmp_path / "data", {"a": 5, "b": 1})
    for key in keys:
        if split_of(key) == "test":
            (tmp_path / "data" / key).unlink()
    with pytest.raises(UserError, match="holds 3 images, none of them in the test split: both splits need some"):
        FolderSource("imagefolder", tmp_path / "data", two_classes, None, 0, None)


def test_runs_from_before_the_rule_are_refused(tmp_path: Path, two_classes: ModelInfo) -> None:
    fill(tmp_path / "data", {"a": 2, "b": 2})
    identity = FolderSource("imagefolder", tmp_path / "data", two_classes, None, 0, None).identity
    before = {key: value for key, value in identity.items() if key != "split_rule"}
    with pytest.raises(UserError, match="rule of the splits is absent there, by a hash of each image's name here"):
        compare_identity(tmp_path, before, identity)


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
    fill(tmp_path / "halves" / "train", {"a": 2, "b": 2})
    fill(tmp_path / "halves" / "test", {"a": 2, "b": 2})
    with pytest.raises(UserError, match=r"halves/CLASS/….jpg \(test, train: splits, not classes; name one"):
        open_source("imagefolder", info, images=None, data_dir=tmp_path / "halves")
    (tmp_path / "hollow" / TENCH).mkdir(parents=True)
    with pytest.raises(UserError, match="holds 0 images in 1 class folders"):
        open_source("imagefolder", info, images=None, data_dir=tmp_path / "hollow")
    fill(tmp_path / "letters", {"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"2 class folders \(a, b, …\), mobilenet_v2 has 1000 classes: pass --class-map"):
        open_source("imagefolder", info, images=None, data_dir=tmp_path / "letters")
    fill(tmp_path / "foreign", {"n99999999": 2})
    with pytest.raises(UserError, match="n99999999 are not among ImageNet's 1000 classes"):
        open_source("imagefolder", info, images=None, data_dir=tmp_path / "foreign")


def test_nested_folders_count_and_other_files_are_named(
    tmp_path: Path, two_classes: ModelInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = fill(tmp_path / "data", {"a/deep": 2, "b": 2})
    fill(tmp_path / "data", {".ipynb_checkpoints": 1})
    (tmp_path / "data" / "b" / "notes.txt").write_text("not an image")
    source = FolderSource("imagefolder", tmp_path / "data", two_classes, None, 0, None)
    assert sorted(source.keys) == sorted(keys)
    assert {key.rpartition("/")[0] for key in keys} == {"a/deep", "b"}
    assert "ignored 1 files that are not images, such as " in capsys.readouterr().err


def test_other_pixels_under_the_same_names_are_other_data(tmp_path: Path, two_classes: ModelInfo) -> None:
    keys = fill(tmp_path / "data", {"a": 2, "b": 2})
    before = FolderSource("imagefolder", tmp_path / "data", two_classes, None, 0, None).identity
    Image.new("RGB", (300, 300), "red").save(tmp_path / "data" / keys[0])
    assert FolderSource("imagefolder", tmp_path / "data", two_classes, None, 0, None).identity != before


def test_a_failing_disk_is_no_unreadable_image(tmp_path: Path, two_classes: ModelInfo) -> None:
    """A file that is gone since the folder was listed is an error that names it, and nothing is recorded."""
    keys = fill(tmp_path / "data", {"a": 2, "b": 2})
    source = FolderSource("imagefolder", tmp_path / "data", two_classes, None, 0, None)
    (tmp_path / "data" / keys[0]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        source.load(np.arange(4))
    assert error.value.filename == str(tmp_path / "data" / keys[0])


def test_sources_leave_no_threads(tmp_path: Path, two_classes: ModelInfo) -> None:
    fill(tmp_path / "data", {"a": 2, "b": 2})
    before = set(threading.enumerate())
    sources = [FolderSource("imagefolder", tmp_path / "data", two_classes, None, seed, None) for seed in range(20)]
    for source in sources:
        source.load(np.arange(4))
    assert set(threading.enumerate()) == before
    assert sources[0].load(np.arange(0)).images.shape == (0, 3, 96, 96)


BLANK, TWO_SIGNS, TAB = " ", "e\u0301", "tab\t"
STRANGE = ("two words", "Größe 猫 🐈", TWO_SIGNS, "line\nbreak", TAB, "-dash", "quo'te\"", "back\\slash", "#?*[a]%20", BLANK)
"""Names of folders."""


@pytest.mark.parametrize("root", ["data", "da ta\n'ü"])
def test_images_with_strange_names_are_read_like_others(tmp_path: Path, small_space: str, root: str) -> None:
    data = tmp_path / root
    keys = [key for folder in STRANGE for key in fill(data, {folder: 4}, ".png", name=f"{folder} ")]
    (data / keys[0]).write_bytes(b"no image")
    network = dynamic.load("resnet50-slim", weights=None, classes=len(STRANGE))
    source = FolderSource("imagefolder", data, network.info, None, 0, None)
    assert sorted(source.keys) == sorted(keys)
    assert [source.class_names[label] for label in source.labels] == [key.partition("/")[0] for key in source.keys]
    batch = source.load(np.arange(len(keys)))
    assert list(batch.problems) == source.keys[~batch.readable].tolist() == [keys[0]]
    assert str(tmp_path) not in batch.problems[keys[0]]
    for key, tensor in zip(source.keys[batch.readable], batch.images[torch.from_numpy(batch.readable)], strict=True):
        with Image.open(data / key) as image:
            assert torch.equal(tensor, network.info.preprocessing(image))
    settings = RunSettings(
        model="own", dataset="imagefolder", data_dir=data, space=small_space, images=4, seed=2, out=tmp_path / "run"
    )
    run(settings, network)
    few = FolderSource("imagefolder", data, network.info, 4, 2, None)
    assert read_outcomes(tmp_path / "run")["image"].values.tolist() == few.keys.tolist()


def test_names_that_are_no_unicode_are_images_like_others(tmp_path: Path, small_space: str) -> None:
    """As Latin-1 file systems and old archives leave them."""
    keys = fill(tmp_path / "data", {"a": 4, "b": 4})
    odd = os.fsencode(tmp_path / "data" / "a") + b"/caf\xe9.JPEG"
    os.rename(os.fsencode(tmp_path / "data" / keys[0]), odd)
    os.rename(tmp_path / "data" / "b", os.fsencode(tmp_path / "data") + b"/b\xe9")
    network = dynamic.load("resnet50-slim", weights=None, classes=2)
    source = FolderSource("imagefolder", tmp_path / "data", network.info, None, 0, None)
    row = source.keys.tolist().index("a/caf\\xe9.JPEG")
    assert source.splits[row] == split_of(source.keys[row])
    assert source.class_names == ("a", "b\\xe9")
    batch = source.load(np.arange(8))
    assert batch.readable.all()
    with Image.open(os.fsdecode(odd)) as image:
        assert torch.equal(batch.images[row], network.info.preprocessing(image))
    settings = RunSettings(
        model="own", dataset="imagefolder", data_dir=tmp_path / "data", space=small_space, out=tmp_path / "run"
    )
    run(settings, network)
    assert "a/caf\\xe9.JPEG" in read_outcomes(tmp_path / "run")["image"].values
    (tmp_path / "data" / "a" / "caf\\xe9.JPEG").write_bytes(b"another")
    with pytest.raises(UserError, match="two files called a/caf"):
        FolderSource("imagefolder", tmp_path / "data", network.info, None, 0, None)


def labels_of(root: Path, names: list[str]) -> dict[str, int]:
    fill(root, {name: 4 for name in names})
    info = dynamic.load("mobilenet_v2-slim", weights=None, classes=len(names)).info
    source = FolderSource("imagefolder", root, info, None, 0, None)
    return {key.split("/")[0]: int(label) for key, label in zip(source.keys, source.labels, strict=True)}


def test_class_folders_that_are_numbers_are_the_class_indices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert labels_of(tmp_path / "from 0", [str(n) for n in range(12)]) == {str(n): n for n in range(12)}
    printed = capsys.readouterr().err
    assert "torchvision's ImageFolder has them as text (0, 1, 10, …): pass --class-map" in printed
    assert "are taken for classes" not in printed
    assert labels_of(tmp_path / "from 1", [str(n) for n in range(1, 12)]) == {str(n): n - 1 for n in range(1, 12)}
    assert "class folders 1 to 11 are taken for classes 0 to 10, in numeric order" in capsys.readouterr().err
    assert labels_of(tmp_path / "padded", ["00", "01", "02"]) == {"00": 0, "01": 1, "02": 2}
    assert labels_of(tmp_path / "words", ["0", "1", "10", "x"]) == {"0": 0, "1": 1, "10": 2, "x": 3}
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"two class folders have one number \(01, 1, …\): pass --class-map"):
        labels_of(tmp_path / "twice", ["1", "01"])


def test_folders_that_runs_were_made_on_are_the_same_folders(tmp_path: Path) -> None:
    """The identity of a folder without hidden files and copies, as it was before there was a rule for those."""
    for size in range(1, 7):
        for name, byte in (("a/x{}.png", "7"), ("b/y {}.jpg", "8")):
            path = tmp_path / name.format(size)
            path.parent.mkdir(exist_ok=True)
            path.write_text(byte.rjust(size, "0"))
    (tmp_path / "10").mkdir()
    (tmp_path / "10" / "z.bmp").write_text("99")
    info = dynamic.load("mobilenet_v2-slim", weights=None, classes=3).info
    assert FolderSource("imagefolder", tmp_path, info, 4, 1, None).identity == {
        "dataset": "imagefolder",
        "seed": "1",
        "split_rule": "by a hash of each image's name",
        "images": "8 (cc375be0f29a)",
    }


def test_one_class_and_ten_images_are_a_run(tmp_path: Path, small_space: str) -> None:
    fill(tmp_path / "data", {"bag": 10})
    (tmp_path / "map.json").write_text('{"bag": 8}')
    settings = {"dataset": "imagefolder", "data_dir": tmp_path / "data", "class_map": tmp_path / "map.json"}
    summary = run(RunSettings(space=small_space, out=tmp_path / "run", **settings))
    assert [summary["spaces"]["small"][split]["images"] for split in ("label", "test")] == [5, 5]
    assert Run.open(tmp_path / "run").record.class_names[8] == "bag"
    with pytest.raises(UserError, match=r"1 class folders \(bag, …\), resnet50-slim has 10 classes: pass --class-map"):
        run(RunSettings(space=small_space, out=tmp_path / "other", **{**settings, "class_map": None}))
