"""Images to fine-tune on."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynamic
from dynamic import UserError
from dynamic.models import ModelInfo
from dynamic.preprocessing import centred_preprocessing
from oracle.data import training_images
from oracle.data.training_images import open_training_images
from tests.image_folders import fill
from tests.pictures import corpus


@pytest.fixture(scope="module")
def info() -> ModelInfo:
    return dynamic.load("mobilenet_v2-slim", weights=None, classes=2).info


def test_crops_depend_on_seed_epoch_and_image_alone(tmp_path: Path, info: ModelInfo) -> None:
    fill(tmp_path / "train", {"two words": 3, "Größe\n猫": 3}, ".png")
    images = open_training_images("imagefolder", info, tmp_path, None, None, seed=0)
    assert len(images) == 6

    def epoch(number: int, *rows: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(images.batches(number, [np.array(part) for part in rows]))

    (first, labels), (second, _) = epoch(0, [0, 5, 2], [3, 1])
    assert labels.tolist() == [0, 1, 0]
    ((again, _),), ((other, _),) = epoch(0, [2, 3]), epoch(1, [2, 3])
    assert first.shape == (3, 3, 96, 96)
    assert torch.equal(again, torch.stack([first[2], second[0]]))
    assert not torch.equal(again, other)


def test_damaged_images_are_left_out_by_name(tmp_path: Path, info: ModelInfo, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 3})
    images = open_training_images("imagefolder", info, tmp_path, None, None, seed=0)
    damaged, gone = sorted((tmp_path / "train" / "a").iterdir())[:2]
    damaged.write_bytes(b"no image")
    gone.unlink()  # after the folder was listed
    ((loaded, labels),) = images.batches(0, [np.arange(6)])
    assert len(loaded) == 4
    assert labels.tolist() == [0, 1, 1, 1]
    printed = capsys.readouterr().err
    assert f"left out {damaged}, which cannot be read" in printed
    assert f"left out {gone}, which cannot be read" in printed
    with pytest.raises(UserError, match="fewer than two images of a batch can be read"):
        list(images.batches(0, [np.array([0, 1, 2])]))


def test_the_digest_follows_the_images(tmp_path: Path, info: ModelInfo) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 3})
    digests = {open_training_images("imagefolder", info, tmp_path, None, count, seed=0).digest for count in (None, 6, 4)}
    assert len(digests) == 2
    with pytest.raises(UserError, match="needs --data-dir, the folder that holds train/"):
        open_training_images("imagefolder", info, None, None, None, seed=0)


def test_copies_of_test_images_are_not_trained_on(
    tmp_path: Path, info: ModelInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = fill(tmp_path / "train", {"a": 4, "b": 4})
    fill(tmp_path / "val", {"a": 2, "b": 2}, height=60)
    apart = open_training_images("imagefolder", info, tmp_path, None, None, seed=0)
    assert len(apart) == 8
    assert capsys.readouterr().err == ""
    (tmp_path / "val" / "a" / "renamed.JPEG").write_bytes((tmp_path / "train" / keys[0]).read_bytes())
    assert len(open_training_images("imagefolder", info, tmp_path, None, None, seed=0)) == 7
    printed = capsys.readouterr().err
    assert (
        f"left out 1 training images that are in {tmp_path / 'val'} too, such as {tmp_path / 'train' / keys[0]}" in printed
    )


def test_a_train_folder_that_is_a_copy_of_val_is_called_one(tmp_path: Path, info: ModelInfo) -> None:
    fill(tmp_path / "train", {"a": 2, "b": 2})
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    with pytest.raises(UserError, match=r"^all 4 images in .*train are in .*val too"):
        open_training_images("imagefolder", info, tmp_path, None, None, seed=0)


@pytest.mark.parametrize("val", ["val", "."])
def test_copies_are_found_whatever_the_folders_of_val_are_called(tmp_path: Path, info: ModelInfo, val: str) -> None:
    keys = fill(tmp_path / "train", {"a": 4, "b": 4})
    fill(tmp_path / val, {"c": 2, "d": 2, "e": 2}, height=60)
    assert len(open_training_images("imagefolder", info, tmp_path, None, None, seed=0)) == 8
    (tmp_path / val / "e" / "copy.JPEG").write_bytes((tmp_path / "train" / keys[0]).read_bytes())
    assert len(open_training_images("imagefolder", info, tmp_path, None, None, seed=0)) == 7
    for row, key in enumerate(keys):
        (tmp_path / val / "c" / f"copy{row}.JPEG").write_bytes((tmp_path / "train" / key).read_bytes())
    with pytest.raises(UserError, match=r"all 8 images in .*train are in .* too"):
        open_training_images("imagefolder", info, tmp_path, None, None, seed=0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_training_sees_what_the_oracle_sees(tmp_path: Path, info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for crops and mirror images."""
    for name, data in corpus().items():
        for folder in ("a", "b"):
            path = tmp_path / "train" / folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    for prepare in (info.preprocessing, centred_preprocessing(32, (0.3,), (0.2,))):
        images = open_training_images("imagefolder", replace(info, preprocessing=prepare), tmp_path, None, None, seed=0)
        loader = training_images._Augmented(images._files, replace(info, preprocessing=prepare), [0, 0])
        monkeypatch.setattr(loader, "_augment", lambda image: image)
        for row, file in enumerate(images._files):
            assert torch.equal(loader[row][0], prepare(Image.open(io.BytesIO(file.path.read_bytes())))), file.key
